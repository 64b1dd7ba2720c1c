import { readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { decodeLines, pairLine, type VerdictLine } from './kv-decode.ts';
import type { PipeWriter } from './pipe-writer.ts';

const golden = ['cilium-kv', 'cilium-random'].map((name) =>
  readFileSync(projectPath(`mesh/wire/testdata/${name}.jsonl`)),
);

async function decode(
  text: Buffer | string,
  max: 255 | 511 = 511,
): Promise<{ verdicts: VerdictLine[]; lines: number; invalid: number }> {
  let written = '';
  const output: PipeWriter = {
    isClosed: false,
    write: async (piece) => {
      written += piece;
    },
    flush: async () => undefined,
  };
  async function* input(): AsyncGenerator<Buffer> {
    yield Buffer.from(text);
  }
  const result = await decodeLines(input(), output, { max });
  const verdicts = written.split('\n').slice(0, -1);
  return { ...result, verdicts: verdicts.map((line) => JSON.parse(line)) };
}

test('what Cilium wrote comes out as it went in', async (t) => {
  for (const text of golden) {
    const given = text
      .toString()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const { verdicts, lines, invalid } = await decode(text);
    t.strictSame([lines, invalid], [given.length, 0]);
    for (const [index, verdict] of verdicts.entries()) {
      const { key, value, encoding } = given[index];
      t.strictSame(
        [verdict.key, verdict.value, verdict.encoding, verdict.valid, verdict.error],
        [key, value, encoding, true, null],
      );
    }
  }
  const { invalid } = await decode(golden[0] ?? '', 255);
  t.equal(invalid, 16, 'clusters 300 and 511 do not fit a mesh of 255');
});

test('the words of a verdict', async (t) => {
  const slice = golden[1]
    ?.toString()
    .split('\n')
    .find((line) => line.includes('/endpointslices/'));
  const { verdicts } = await decode(
    [
      '{"key":"cilium/.heartbeat","value":"2026-01-02T03:04:05Z"}',
      '{"key":"cilium/cluster-config/alpha","value":"{\\"capabilities\\":{},\\"id\\":3}"}',
      '{"key":"cilium/cluster-config/alpha","value":"e30=","encoding":"base64"}',
      '{"key":"cilium/.initlock/1","value":"/w==","encoding":"base64"}',
      slice,
    ].join('\n'),
  );
  const expected = [
    { kind: 'heartbeat', cluster: null, valid: true, error: null, value: '2026-01-02T03:04:05Z' },
    {
      kind: 'cluster-config',
      cluster: 'alpha',
      valid: true,
      error: null,
      value: '{"id":3,"capabilities":{}}',
    },
    {
      kind: 'cluster-config',
      cluster: 'alpha',
      valid: false,
      error: 'cannot parse cilium/cluster-config/alpha: field id is 0, expected 1 to 511',
      value: null,
    },
    {
      kind: 'internal',
      cluster: null,
      valid: true,
      error: null,
      value: '/w==',
      encoding: 'base64',
    },
  ];
  t.match(verdicts, expected);
  t.strictSame(Object.keys(verdicts[0] ?? {}), [
    'key',
    'kind',
    'cluster',
    'valid',
    'error',
    'value',
  ]);
  t.match(verdicts[4], {
    kind: 'endpoint-slice',
    valid: true,
    encoding: 'base64',
    content: { clusterId: Number },
  });
});

test('what is no pair is reported with its line, and the stream goes on', async (t) => {
  const good = '{"key":"cilium/.heartbeat","value":"2026-01-02T03:04:05Z"}';
  const cases: readonly (readonly [string, RegExp])[] = [
    ['nonsense', /^cannot read line 2: not JSON/],
    ['{"key":"a"', /^cannot read line 2: not JSON/],
    ['[]', /expected an object with key and value/],
    ['null', /expected an object/],
    ['7', /expected an object/],
    ['{}', /expected key to be a string/],
    ['{"value":"x"}', /expected key to be a string/],
    ['{"key":"cilium/.heartbeat"}', /expected value to be a string/],
    ['{"key":"cilium/.heartbeat","value":{"a":1}}', /expected value to be a string/],
    ['{"key":"a","value":"b","encoding":"hex"}', /expected encoding to be base64/],
    ['{"key":"a","value":"b","encoding":"base64"}', /value is not base64/],
    ['{"__proto__":{"key":"a","value":"b"}}', /expected key to be a string/],
    [`${'['.repeat(100_000)}`, /not JSON/],
  ];
  for (const [line, message] of cases) {
    const { verdicts, invalid, lines } = await decode(`${good}\n${line}\n${good}\n`);
    t.strictSame([lines, invalid], [3, 1], line.slice(0, 60));
    t.strictSame(
      verdicts.map(({ valid }) => valid),
      [true, false, true],
    );
    t.match(verdicts[1]?.error, message);
  }
  const { verdicts } = await decode(`${good}\r\n\n   \n${good}\nx`);
  t.equal(verdicts.length, 3, 'blank lines are no lines');
  t.match(verdicts[2]?.error, /line 5/);
});

test('a slow reader slows the source, a reader that left ends it', async (t) => {
  const line = Buffer.from(`${JSON.stringify(pairLine('cilium/.initlock/1', 'x'.repeat(1000)))}\n`);
  let given = 0;
  async function* endless(): AsyncGenerator<Buffer> {
    for (; given < 1_000_000; given += 1) yield line;
  }
  let release: (() => void) | undefined;
  let isClosed = false;
  const output: PipeWriter = {
    get isClosed() {
      return isClosed;
    },
    write: () =>
      new Promise((resolve) => {
        release = resolve;
      }),
    flush: async () => undefined,
  };
  const decoding = decodeLines(endless(), output, { max: 255 });
  await new Promise(setImmediate);
  t.ok(given <= 1, 'not read before its verdict was taken');
  isClosed = true;
  release?.();
  t.same(await decoding, { lines: 1, invalid: 0 });
  t.ok(given <= 1);
});

test('pairLine() keeps bytes that are no text', async (t) => {
  t.same(pairLine('k', Buffer.from('ü')), { key: 'k', value: 'ü' });
  t.same(pairLine('k', Buffer.from([0xff])), { key: 'k', value: '/w==', encoding: 'base64' });
  t.same(pairLine('k', Buffer.from('\ufeffx')), { key: 'k', value: '\ufeffx' });
});
