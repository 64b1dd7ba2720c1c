import { t as file, test } from 'tap';
import { type FuzzTarget, fuzz, fuzzOptions } from '../wire/testing/fuzz.ts';
import { field } from '../wire/testing/slice-writer.ts';
import { decodeKeepAliveAnswer, decodeRangeAnswer, decodeWatchAnswer } from './etcd-messages.ts';
import { KvError } from './kvstore.ts';

const TIMEOUT_MS = 3_000_000;
const { inputs, seed } = fuzzOptions(6000, {
  argv: process.argv,
  isLong: process.env.ISTHMUS_LONG === 'true',
  long: 60_000,
});
// The file's own limit counts besides that of its test.
file.setTimeout(TIMEOUT_MS);

const header = field(1, Buffer.concat([field(1, 7), field(2, 8), field(3, 900), field(4, 2)]));
const pair = (name: string, value: string) =>
  Buffer.concat([
    field(1, name),
    field(2, 5),
    field(3, 6),
    field(4, 1),
    field(5, value),
    field(6, 77),
  ]);
const range = Buffer.concat([
  header,
  field(2, pair('cilium/state/nodes/v1/alpha/n1', '{}')),
  field(2, pair('cilium/state/nodes/v1/alpha/n2', 'x'.repeat(300))),
  field(3, 1),
  field(4, 2),
]);
const watch = Buffer.concat([
  header,
  field(2, 1),
  field(3, 1),
  field(4, 1),
  field(5, 800),
  field(6, 'why'),
  field(7, 1),
  field(11, field(2, pair('a/b', 'c'))),
  field(11, Buffer.concat([field(1, 1), field(2, pair('a/d', ''))])),
]);
const keepAlive = Buffer.concat([header, field(2, 12), field(3, 60)]);

function target(name: string, decode: (input: Buffer) => unknown): FuzzTarget {
  return {
    name,
    corpus: [range, watch, keepAlive, Buffer.concat([range, watch])],
    weight: 1,
    isTyped: (error) => error instanceof KvError && error.code === 'invalid' && error.retryable,
    run: (input) => {
      decode(input);
    },
  };
}

const targets = [
  target('range', decodeRangeAnswer),
  target('watch', decodeWatchAnswer),
  target('keepalive', decodeKeepAliveAnswer),
];

test(`answers of etcd: decoders bear ${inputs} mutated inputs`, {
  timeout: TIMEOUT_MS,
}, async (t) => {
  t.comment(`seed ${seed}`);
  const report = fuzz(targets, { inputs, seed });
  t.comment(JSON.stringify({ ...report, findings: report.findings.length }));
  t.same(report.findings, [], `seed ${seed}`);
  t.ok(report.heapGrowthMiB < 200, `the heap grew by ${report.heapGrowthMiB} MiB`);
  for (const [name, count] of Object.entries(report.byTarget)) {
    t.ok(count.refused > 0 && count.refused < count.inputs, name);
  }
});
