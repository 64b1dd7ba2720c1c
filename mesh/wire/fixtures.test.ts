import { readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../runtime/project-path.ts';
import { decodeValue } from './decode-any.ts';
import { WireError } from './wire-error.ts';

interface Line {
  readonly key: string;
  readonly value: string;
  readonly encoding?: string;
}

/** Kinds whose values no reader of ours looks into. */
const OPAQUE_KINDS: readonly string[] = ['identity-reference', 'service-export', 'endpoint-slice'];

const lines = readFileSync(projectPath('mesh/wire/testdata/cilium-kv.jsonl'), 'utf8')
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => JSON.parse(line) as Line);

test('every value written by Cilium decodes and encodes back to the same', async (t) => {
  const kinds = new Map<string, number>();
  for (const line of lines) {
    const value = Buffer.from(line.value, line.encoding === 'base64' ? 'base64' : 'utf8');
    const { kind, value: encoded } = decodeValue(line.key, value);
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    if (encoded === undefined) {
      t.ok(OPAQUE_KINDS.includes(kind), `${line.key}: of a kind whose values stay closed`);
      continue;
    }
    if (line.value.startsWith('{')) {
      t.same(JSON.parse(encoded), JSON.parse(line.value), `${line.key}: same parsed value`);
    }
    t.equal(encoded, line.value, `${line.key}: same text`);
  }
  t.ok(lines.length >= 100, 'the fixture is there whole');
  for (const kind of [
    'node',
    'ip',
    'identity',
    'service',
    'cluster-config',
    'synced',
    'heartbeat',
  ]) {
    t.ok(kinds.has(kind), `there are values of kind ${kind}`);
  }
});

test('every prefix of a value written by Cilium is decoded or refused with its key', async (t) => {
  let refused = 0;
  for (const line of lines.filter((candidate) => candidate.encoding !== 'base64')) {
    for (let length = 0; length < line.value.length; length += 1) {
      try {
        decodeValue(line.key, line.value.slice(0, length));
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
