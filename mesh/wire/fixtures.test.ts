import { readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../runtime/project-path.ts';
import { decodePair } from './decode-any.ts';
import { inspectPair } from './inspect.ts';
import { WireError } from './wire-error.ts';

interface Line {
  readonly key: string;
  readonly value: string;
  readonly encoding?: string;
}

function readLines(name: string): Line[] {
  const text = readFileSync(projectPath(`mesh/wire/testdata/${name}.jsonl`), 'utf8');
  return text.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as Line]));
}

function bytesOf({ value, encoding }: Line): Buffer {
  return Buffer.from(value, encoding === 'base64' ? 'base64' : 'utf8');
}

/** A mesh as it is, in the layout of sources and in that of a mirror. */
const lines = readLines('cilium-kv');
/** Random values of all kinds, written by the types of Cilium 1.19.6 and 1.20.2. */
const random = readLines('cilium-random');

test('every value written by Cilium is valid, and encodes back to the same', async (t) => {
  const kinds = new Map<string, number>();
  for (const line of [...lines, ...random]) {
    const value = bytesOf(line);
    const { kind, error, value: encoded } = inspectPair(line.key, value, 511);
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    t.equal(error, undefined, `${line.key}: valid`);
    t.ok(value.equals(Buffer.from(encoded ?? '')), `${line.key}: same bytes`);
  }
  t.equal(lines.length, 124);
  t.equal(random.length, 288);
  t.strictSame([...kinds.keys()].sort(), [
    'cluster-config',
    'endpoint-slice',
    'heartbeat',
    'identity',
    'identity-reference',
    'ip',
    'node',
    'service',
    'service-export',
    'synced',
  ]);
});

test('in a mesh of 255 only the ids above that are not valid', async (t) => {
  const refused = lines.filter(
    (line) => inspectPair(line.key, bytesOf(line), 255).error !== undefined,
  );
  // Clusters 300 and 511: a configuration, three nodes and four services each.
  t.equal(refused.length, 16);
  for (const line of refused) {
    t.match(line.key, /(omega|gamma)(\/|$)/);
    t.match(inspectPair(line.key, bytesOf(line), 255).error?.field, /id$/i);
  }
});

test('every prefix of a value written by Cilium is decoded or refused with its key', async (t) => {
  let refused = 0;
  for (const line of lines) {
    for (let length = 0; length < line.value.length; length += 1) {
      try {
        decodePair(line.key, line.value.slice(0, length));
      } catch (error) {
        if (!(error instanceof WireError) || error.key !== line.key) {
          t.fail(`${line.key} cut to ${length}: ${String(error)}`);
          return;
        }
        refused += 1;
      }
    }
  }
  t.ok(refused > 10_000, `${refused} prefixes were refused`);
});
