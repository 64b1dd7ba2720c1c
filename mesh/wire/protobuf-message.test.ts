import { test } from 'tap';
import { openProtobufMessage, ProtobufError } from './protobuf-message.ts';
import { field } from './testing/slice-writer.ts';

function refusal(hex: string, max = 100): string {
  const message = openProtobufMessage(Buffer.from(hex, 'hex'), max);
  try {
    while (message.next()) if (message.field === 2) message.text();
  } catch (error) {
    if (error instanceof ProtobufError) return error.code;
    throw error;
  }
  return 'nothing was thrown';
}

test('fields are read, unknown ones of any type are passed over', async (t) => {
  const unknown = Buffer.from(
    '6001 6901020304050607 08 7d01020304 73 1801 1b 2002 1c 74'.replaceAll(' ', ''),
    'hex',
  );
  const inner = Buffer.concat([field(1, 'k'), unknown, field(2, 'v')]);
  const message = openProtobufMessage(
    Buffer.concat([
      field(1, 300),
      unknown,
      field(2, 'text'),
      field(3, inner),
      Buffer.from('20feffffffffffffffff01', 'hex'),
      field(5, 1),
    ]),
    100,
  );
  const seen: unknown[] = [];
  while (message.next()) {
    if (message.field === 1) seen.push(message.uint32());
    else if (message.field === 2) seen.push(message.text());
    else if (message.field === 3) seen.push(message.entry());
    else if (message.field === 4) seen.push(message.int32(), message.uint32());
    else if (message.field === 5) seen.push(message.boolean());
  }
  t.strictSame(seen, [300, 'text', ['k', 'v'], -2, 4_294_967_294, true]);
});

test('what is no message is refused', async (t) => {
  for (const [hex, name] of [
    ['08', 'a number without its bytes'],
    ['0880', 'a number that is cut off'],
    ['0880808080808080808080808001', 'a number of more than 10 bytes'],
    ['1205616263', 'a field that is longer than its message'],
    ['12ffffffff0f', 'a field of 4 GiB'],
    ['0001', 'a field with number 0'],
    ['1e01', 'an unknown wire type'],
    ['1c', 'the end of no group'],
    ['1b', 'a group without its end'],
    ['1001', 'a text that is a number'],
    ['1b'.repeat(100), 'groups in groups'],
  ] as const) {
    t.equal(refusal(hex), 'malformed', name);
  }
  t.equal(refusal('1200'.repeat(100)), 'nothing was thrown');
  t.equal(refusal('1200'.repeat(101)), 'too-many');
});
