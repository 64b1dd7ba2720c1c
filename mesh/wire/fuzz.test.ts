import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { t as file, test } from 'tap';
import { projectPath } from '../runtime/project-path.ts';
import { decodeEndpointSlice } from './endpoint-slice.ts';
import { inspectPair } from './inspect.ts';
import { parseIpAddress, parseIpPrefix } from './ip.ts';
import { decodeAnyIp, decodeIpIdentity } from './ip-identity.ts';
import { parseKey } from './parse-key.ts';
import { codecs } from './testing/arbitraries.ts';
import { type FuzzTarget, fuzz, fuzzOptions } from './testing/fuzz.ts';
import { frameOf, sliceMessage } from './testing/slice-writer.ts';
import { WireError } from './wire-error.ts';
import { decompressZstd, ZstdError } from './zstd.ts';

const TIMEOUT_MS = 3_000_000;
const { inputs, seed } = fuzzOptions(50_000, {
  argv: process.argv,
  isLong: process.env.ISTHMUS_LONG === 'true',
  long: 900_000,
});
// The file's own limit counts besides that of its test.
file.setTimeout(TIMEOUT_MS);

interface Pair {
  readonly key: string;
  readonly value: Buffer;
}

const golden: readonly Pair[] = ['cilium-kv', 'cilium-random'].flatMap((name) =>
  readFileSync(projectPath(`mesh/wire/testdata/${name}.jsonl`), 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
    .map(({ key, value, encoding }) => ({ key, value: Buffer.from(value, encoding ?? 'utf8') })),
);
const slices = golden.filter(({ key }) => key.includes('/endpointslices/'));
/** Targets that refuse by what they give. */
const NEVER_REFUSING: readonly string[] = ['pairs', 'the quick reading of addresses'];
const isWireError = (error: unknown): boolean => error instanceof WireError;

/** Whatever a decoder takes, it takes again in the form in which we write it, and writes the same. */
function decoderTarget(codec: (typeof codecs)[number]): FuzzTarget {
  const samples = fc.sample(codec.values, { numRuns: 40, seed });
  const written = samples.map((value) => Buffer.from(codec.encode(value as never)));
  const read = golden.filter(({ key }) => kindName(key) === codec.name).map(({ value }) => value);
  return {
    name: codec.name,
    corpus: [...written, ...read],
    weight: 3,
    isTyped: (error) => isWireError(error) && (error as WireError).key === codec.key,
    run(input) {
      const first = codec.encode(codec.decode(input, codec.key) as never);
      let second: string;
      try {
        second = codec.encode(codec.decode(first, codec.key) as never);
      } catch (error) {
        throw new Error(`what is written cannot be read: ${error}: ${first.slice(0, 500)}`);
      }
      if (first !== second)
        throw new Error(`written ${first.slice(0, 500)}, then ${second.slice(0, 500)}`);
    },
  };
}

function kindName(key: string): string {
  const { kind } = parseKey(key);
  if (kind === 'ip') return 'ip-identity';
  return kind === 'synced' || kind === 'heartbeat' ? 'timestamp' : kind;
}

const targets: readonly FuzzTarget[] = [
  ...codecs.map(decoderTarget),
  {
    name: 'the quick reading of addresses',
    corpus: golden.filter(({ key }) => key.includes('/ip/')).map(({ value }) => value),
    weight: 4,
    isTyped: isWireError,
    run(input) {
      let slow: unknown;
      try {
        slow = decodeAnyIp(input, 'k');
      } catch (error) {
        slow = String(error);
      }
      let quick: unknown;
      try {
        quick = decodeIpIdentity(input, 'k');
      } catch (error) {
        if (!isWireError(error)) throw error;
        quick = String(error);
      }
      if (!isDeepStrictEqual(quick, slow)) throw new Error('quick and slow reading differ');
    },
  },
  {
    name: 'keys',
    corpus: [
      ...golden.map(({ key }) => Buffer.from(key)),
      ...codecs.map(({ key }) => Buffer.from(key)),
    ],
    weight: 6,
    isTyped: isWireError,
    run(input) {
      parseKey(input.toString('utf8'));
    },
  },
  {
    name: 'addresses and prefixes',
    corpus: ['10.1.2.3', '10.0.0.0/8', '2001:db8::1', 'fd00::/64', '::ffff:10.0.0.1'].map((text) =>
      Buffer.from(text),
    ),
    weight: 3,
    isTyped: isWireError,
    run(input) {
      const text = input.toString('utf8');
      const prefix = parseIpPrefix(text);
      if (parseIpPrefix(prefix) !== prefix) throw new Error(`${prefix} is not canonical`);
      const address = parseIpAddress(text);
      if (parseIpAddress(address) !== address) throw new Error(`${address} is not canonical`);
    },
  },
  {
    name: 'pairs',
    corpus: golden.map(({ key, value }) => Buffer.concat([Buffer.from(`${key}\n`), value])),
    weight: 6,
    // It says what is wrong instead of throwing.
    isTyped: () => false,
    run(input) {
      const end = Math.max(0, input.indexOf('\n'));
      const key = input.toString('utf8', 0, end);
      const value = input.subarray(end + 1);
      const { value: written } = inspectPair(key, value, 511);
      if (written === undefined) return;
      const again = inspectPair(key, written, 511);
      if (
        again.error !== undefined ||
        !Buffer.from(written).equals(Buffer.from(again.value ?? ''))
      ) {
        throw new Error(`not valid when written: ${String(again.error)}`);
      }
    },
  },
  {
    name: 'compressed slices',
    corpus: slices.map(({ value }) => value),
    weight: 4,
    isTyped: isWireError,
    run: (input) => {
      decodeEndpointSlice(input, 'k');
    },
  },
  {
    name: 'slices',
    corpus: [
      sliceMessage({ labels: { a: 'b' } }),
      ...slices.map(({ value }) => decompressZstd(value, 1 << 24)),
    ],
    weight: 4,
    isTyped: isWireError,
    run: (input) => {
      decodeEndpointSlice(frameOf(input), 'k');
    },
  },
  {
    name: 'zstandard',
    corpus: [
      readFileSync(projectPath('mesh/wire/testdata/cilium-kv.jsonl.zst')),
      Buffer.from('KLUv/QRIVAAAEHh4AQD7/znAAgIAEHgCABB4A9QAeOa4Xgs=', 'base64'),
      Buffer.from('28b52ffd00584d000000ffffff5423023480', 'hex'),
      ...slices.map(({ value }) => value),
    ],
    weight: 4,
    isTyped: (error) => error instanceof ZstdError,
    run(input, random) {
      // Without the checksum flag, damage is not noticed at the end but has to be borne.
      const bytes = Buffer.from(input);
      if (random.below(2) === 0 && bytes.length > 4) bytes[4] = (bytes[4] ?? 0) & ~4;
      const content = decompressZstd(bytes, 1 << 24);
      if (content.length > 1 << 24) throw new Error(`${content.length} bytes`);
    },
  },
];

test(`decoders bear ${inputs} mutated inputs`, { timeout: TIMEOUT_MS }, async (t) => {
  t.comment(`seed ${seed}`);
  const report = fuzz(targets, { inputs, seed });
  t.comment(JSON.stringify({ ...report, findings: report.findings.length }));
  t.same(report.findings, [], `seed ${seed}`);
  t.equal(report.inputs, inputs);
  t.ok(report.heapGrowthMiB < 200, `the heap grew by ${report.heapGrowthMiB} MiB`);
  for (const [name, count] of Object.entries(report.byTarget)) {
    // Else the mutations would be too wild to reach anything, or too tame to break anything.
    t.ok(count.refused > 0 || NEVER_REFUSING.includes(name), `${name} refused some`);
    t.ok(count.refused < count.inputs, `${name} took some`);
  }
});
