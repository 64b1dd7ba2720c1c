import { test } from 'tap';
import { withKey } from './machine-keys.ts';
import type { MachineKey } from './machine-record.ts';

const HOUR_MS = 3_600_000;

test('withKey() renews for ever, however short certificates live', (t) => {
  for (const ttl of [30_000, HOUR_MS, 24 * HOUR_MS]) {
    let keys: readonly MachineKey[] = [];
    let now = 0;
    for (let count = 0; count < 1000; count += 1) {
      const next = withKey(keys, { hash: `key ${count}`, expiresAt: now + ttl }, now);
      if (next === undefined) throw new Error(`renewal ${count} of ${ttl} ms is refused`);
      keys = next;
      now += (ttl * 2) / 3;
    }
    t.equal(keys.at(-1)?.hash, 'key 999');
    t.ok(keys.length <= 32, 'and what is kept stays small');
  }
  t.end();
});

test('withKey() stops who asks for certificate after certificate', (t) => {
  let keys: readonly MachineKey[] = [];
  for (let count = 0; count < 32; count += 1) {
    keys = withKey(keys, { hash: `key ${count}`, expiresAt: HOUR_MS }, count) ?? [];
  }
  t.equal(keys.length, 32);
  t.equal(withKey(keys, { hash: 'one more', expiresAt: HOUR_MS }, 100), undefined);
  t.equal(withKey(keys, { hash: 'key 7', expiresAt: HOUR_MS }, 100)?.length, 32, 'the same again');
  t.end();
});
