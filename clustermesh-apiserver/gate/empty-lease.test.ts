import { test } from 'tap';
import {
  answerLeaseGrant,
  answerLeaseKeepAlive,
  answerLeaseRevoke,
  headerOf,
  LEASE_SPAN,
} from './empty-lease.ts';
import { bytesField, forEachField, varintField, varintValue } from './protobuf.ts';

const header = bytesField(1, varintField(1, 4711));

function read(answer: Buffer): { id: number; ttl: number } {
  const fields = new Map<number, number>();
  forEachField(answer, ({ number, value }) => void fields.set(number, varintValue(value)));
  return { id: fields.get(2) ?? 0, ttl: fields.get(3) ?? 0 };
}

test('a lease lives as long as was asked for, in bounds, and is kept alive by its number alone', (t) => {
  const asked: [number, number][] = [
    [25, 25],
    [0, 1],
    [-5, 1],
    [9_000_000_000, 2 ** 20 - 1],
  ];
  for (const [wanted, given] of asked) {
    for (const random of [0, 1, LEASE_SPAN - 1]) {
      const answer = answerLeaseGrant(varintField(1, wanted), { header, random });
      t.same(headerOf(answer), header);
      const { id, ttl } = read(answer);
      t.equal(ttl, given);
      t.ok(Number.isSafeInteger(id));
      t.same(read(answerLeaseKeepAlive(varintField(1, id), { header, random })), { id, ttl });
    }
  }
  t.end();
});

test('a lease that no gate gave has no time left', (t) => {
  for (const id of [0, 1, -1, 2 ** 20 - 1, 2 ** 60]) {
    t.equal(read(answerLeaseKeepAlive(varintField(1, id), { header, random: 0 })).ttl, 0);
  }
  t.same(answerLeaseRevoke(Buffer.alloc(0), { header, random: 0 }), header);
  t.end();
});

test('bytes that are no message are refused', (t) => {
  for (const bytes of [Buffer.from([0x08]), Buffer.from([0x0a, 5, 1]), Buffer.from([0x0b])]) {
    t.throws(() => answerLeaseGrant(bytes, { header, random: 1 }), { code: 'malformed' });
    t.throws(() => answerLeaseKeepAlive(bytes, { header, random: 1 }), { code: 'malformed' });
  }
  t.end();
});
