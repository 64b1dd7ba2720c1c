import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { test } from 'tap';
import { projectPath } from '../runtime/project-path.ts';
import { decodeAnyIp, decodeIpIdentity, encodeIpIdentity } from './ip-identity.ts';
import { decodeUsualIp } from './usual-ip.ts';
import { WireError } from './wire-error.ts';

/** What a decoder makes of a value: the record, or the words of its refusal. */
function outcome(decode: () => unknown): unknown {
  try {
    return decode();
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return { refused: error.message, code: error.code, field: error.field };
  }
}

const USUAL =
  '{"IP":"10.1.0.5","Mask":null,"HostIP":"192.0.2.1","ID":65793,"Key":0,"Metadata":"","K8sNamespace":"demo","K8sPodName":"web-0"}';

const ipv4 = fc.ipV4();
const word = fc.oneof(
  fc.constant(''),
  fc.stringMatching(/^[a-z0-9-]{1,40}$/),
  fc.string({ maxLength: 12 }),
);
const address = fc.oneof({ weight: 9, arbitrary: ipv4 }, { weight: 1, arbitrary: word });
const number = fc.oneof(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat());
const identity = fc.oneof(fc.nat(0xffffff), fc.nat(0xffffff), fc.nat());

/** Values in or near the usual form, as text. */
const nearlyUsual = fc
  .record({
    ip: address,
    host: address,
    id: identity,
    key: number,
    words: fc.tuple(word, word, word, word),
    has: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()),
    extra: fc.constantFrom('', '', '', ',"New":1', ' ', ',"NamedPorts":[]'),
  })
  .map(({ ip, host, id, key, words, has, extra }) => {
    const [metadata, ...rest] = words.map((text) => JSON.stringify(text));
    const names = ['K8sNamespace', 'K8sPodName', 'K8sServiceAccount'];
    const optional = names
      .map((name, index) => (has[index] ? `,"${name}":${rest[index]}` : ''))
      .join('');
    return `{"IP":${JSON.stringify(ip)},"Mask":null,"HostIP":${JSON.stringify(host)},"ID":${id},"Key":${key},"Metadata":${metadata}${optional}${extra}}`;
  });

test('decodeUsualIp() gives what the general decoder gives, or leaves it to that one', async (t) => {
  let usual = 0;
  fc.assert(
    fc.property(nearlyUsual, (text) => {
      const found = decodeUsualIp(Buffer.from(text));
      if (found === undefined) return;
      usual += 1;
      t.same(found, decodeAnyIp(text, 'k'), text);
    }),
    { numRuns: 3000 },
  );
  t.ok(usual > 100, `${usual} of 3000 were of the usual form`);
});

test('decodeIpIdentity() is the same for every cut and every changed byte of a usual value', async (t) => {
  const bytes = Buffer.from(USUAL);
  const wrong: string[] = [];
  const look = (value: Buffer): void => {
    const fast = JSON.stringify(outcome(() => decodeIpIdentity(value, 'k')));
    if (fast !== JSON.stringify(outcome(() => decodeAnyIp(value, 'k'))))
      wrong.push(value.toString('latin1'));
  };
  for (let end = 0; end <= bytes.length; end += 1) look(bytes.subarray(0, end));
  for (let index = 0; index < bytes.length; index += 1) {
    for (const byte of [0, 10, 32, 34, 44, 46, 48, 57, 58, 92, 97, 125, 127, 128, 255]) {
      const changed = Buffer.from(bytes);
      changed[index] = byte;
      look(changed);
    }
  }
  t.same(wrong, []);
});

test('values of Cilium itself, of the usual form or not', async (t) => {
  const lines = readFileSync(projectPath('mesh/wire/testdata/cilium-kv.jsonl'), 'utf8')
    .split('\n')
    .filter((line) => line.includes('/ip/v1/'))
    .map((line) => JSON.parse(line) as { key: string; value: string });
  let usual = 0;
  for (const { key, value } of lines) {
    if (decodeUsualIp(Buffer.from(value)) !== undefined) usual += 1;
    t.same(decodeIpIdentity(Buffer.from(value), key), decodeAnyIp(value, key), key);
    t.equal(encodeIpIdentity(decodeIpIdentity(value, key)), value);
  }
  t.ok(usual > 0, `${usual} of ${lines.length} are of the usual form`);
});

const unusual: readonly [string, string][] = [
  ['an escape', USUAL.replace('web-0', 'web\\u002d0')],
  ['a mask', USUAL.replace('null', '"//8AAA=="')],
  ['IPv6', USUAL.replace('10.1.0.5', 'fd00::5')],
  ['a leading zero', USUAL.replace('65793', '065793')],
  ['an identity of more than 24 bits', USUAL.replace('65793', '16777216')],
  ['another order', USUAL.replace('"ID":65793,"Key":0', '"Key":0,"ID":65793')],
  ['white space', USUAL.replace(',"ID"', ', "ID"')],
  ['a trailing byte', `${USUAL}x`],
];
for (const [name, text] of unusual) {
  test(`decodeUsualIp() leaves to the general decoder: ${name}`, async (t) => {
    t.not(text, USUAL);
    t.equal(decodeUsualIp(Buffer.from(text)), undefined);
  });
}
