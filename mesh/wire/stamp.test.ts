import { test } from 'tap';
import { MESH_STAMP_KEY } from './keys.ts';
import { decodeMeshStamp, encodeMeshStamp } from './stamp.ts';
import { refusalOf } from './testing/refusal.ts';

test('a stamp is written and read', async (t) => {
  t.equal(encodeMeshStamp({ at: 1_767_323_045_123 }), '{"schema":1,"at":1767323045123}');
  t.strictSame(decodeMeshStamp('{"at":7,"schema":1,"more":true}', MESH_STAMP_KEY), { at: 7 });
  for (const [value, field] of [
    ['{"schema":3,"at":7}', 'schema'],
    ['{"schema":1,"at":-7}', 'at'],
    ['{"schema":1,"at":1.5}', 'at'],
    ['{"schema":1,"at":"7"}', 'at'],
    ['{"schema":1,"at":1e300}', 'at'],
  ] as const) {
    t.equal(refusalOf(() => decodeMeshStamp(value, MESH_STAMP_KEY)).field, field, value);
  }
});
