import { t as file, test } from 'tap';
import { type FuzzTarget, fuzz, fuzzOptions } from '../../mesh/wire/testing/fuzz.ts';
import { field } from '../../mesh/wire/testing/slice-writer.ts';
import {
  decodeAnswerHeader,
  decodeRangeRequest,
  decodeWatchRequest,
  decodeWatchResponse,
} from './etcd-messages.ts';
import { ProtobufError } from './protobuf.ts';

const TIMEOUT_MS = 3_000_000;
const { inputs, seed } = fuzzOptions(4000, {
  argv: process.argv,
  isLong: process.env.ISTHMUS_LONG === 'true',
  long: 60_000,
});
// The file's own limit counts besides that of its test.
file.setTimeout(TIMEOUT_MS);

const header = field(1, Buffer.concat([field(1, 7), field(2, 8), field(3, 900), field(4, 2)]));
const range = Buffer.concat([
  field(1, 'cilium/state/nodes/v1/alpha/'),
  field(2, 'cilium/state/nodes/v1/alpha0'),
  field(3, 256),
  field(4, 900),
  field(7, 1),
]);
const create = field(
  1,
  Buffer.concat([
    field(1, 'cilium/state/'),
    field(2, 'cilium/state0'),
    field(3, 901),
    field(4, 1),
    field(5, 1),
    field(7, 3),
    field(8, 1),
  ]),
);
const response = Buffer.concat([
  header,
  field(2, 1),
  field(3, 1),
  field(5, 800),
  field(6, 'why'),
  field(11, field(2, Buffer.concat([field(1, 'a/b'), field(3, 901), field(5, 'c')]))),
  field(
    11,
    Buffer.concat([field(1, 1), field(2, Buffer.concat([field(1, 'a/d'), field(3, 902)]))]),
  ),
]);
const corpus = [range, create, field(2, field(1, 3)), field(3, ''), response, header];

function target(name: string, run: (input: Buffer) => void): FuzzTarget {
  return { name, corpus, weight: 1, isTyped: (error) => error instanceof ProtobufError, run };
}

const targets = [
  target('range request', (input) => {
    const { key, rangeEnd, canonical } = decodeRangeRequest(input);
    const again = decodeRangeRequest(canonical);
    // What is passed on asks for what was checked, and nothing that was not understood comes with it.
    if (!again.key.equals(key) || !again.rangeEnd.equals(rangeEnd)) throw new Error('other keys');
    if (!again.canonical.equals(canonical)) throw new Error('not canonical');
  }),
  target('watch request', (input) => {
    decodeWatchRequest(input);
  }),
  target('watch response', (input) => {
    decodeWatchResponse(input);
  }),
  target('answer header', (input) => {
    decodeAnswerHeader(input);
  }),
];

test(`messages at the gate: decoders bear ${inputs} mutated inputs`, {
  timeout: TIMEOUT_MS,
}, async (t) => {
  t.comment(`seed ${seed}`);
  const report = fuzz(targets, { inputs, seed });
  t.comment(JSON.stringify({ ...report, findings: report.findings.length }));
  t.same(report.findings, [], `seed ${seed}`);
  t.ok(report.heapGrowthMiB < 200, `the heap grew by ${report.heapGrowthMiB} MiB`);
  for (const [name, count] of Object.entries(report.byTarget)) {
    t.ok(count.refused < count.inputs, name);
  }
});
