import { closeSync } from 'node:fs';
import { test } from 'tap';
import {
  CT_ESTABLISHED,
  CT_KEY,
  CT_REPLIED,
  CT_VALUE,
  CT_VIA_OVERLAY,
} from '../../mesh/wire/maps.ts';
import { createHashMap, mapInfo, updateElement } from './bpf.ts';
import { CONVERTERS_FROM_1 } from './migration-from-1.ts';
import { kernelSkipReason } from './testing/bpffs.ts';

const TCP = 6;
const UDP = 17;
const SIZE_1 = 16;
const EXPIRES = 0x1234_5678_9abcn;

test('promise 5: flows of the first layout stay what they were', {
  skip: kernelSkipReason(),
}, async (t) => {
  const fd = createHashMap('flows', { key: CT_KEY.size, value: SIZE_1, maxEntries: 8 });
  t.teardown(() => closeSync(fd));
  const flows = [
    { protocol: TCP, flags: CT_REPLIED, expected: CT_REPLIED | CT_ESTABLISHED },
    { protocol: TCP, flags: 0, expected: 0 },
    { protocol: TCP, flags: CT_REPLIED | 2 | 4, expected: CT_REPLIED | CT_ESTABLISHED | 2 | 4 },
    { protocol: UDP, flags: CT_REPLIED, expected: CT_REPLIED },
  ];
  for (const [index, { protocol, flags }] of flows.entries()) {
    const key = Buffer.alloc(CT_KEY.size);
    key.writeUInt16BE(index, CT_KEY.fields.sourcePort);
    key.writeUInt8(protocol, CT_KEY.fields.protocol);
    const value = Buffer.alloc(SIZE_1);
    value.writeBigUInt64LE(EXPIRES, 0);
    value.writeUInt32LE(70_000 + index, 8);
    value.writeUInt8(flags, 12);
    updateElement(fd, key, value);
  }
  const map = { ...mapInfo(fd), name: 'mesh_ct', fd, schema: 1 };
  const source = { folder: 'first', maps: new Map([['mesh_ct', map]]), [Symbol.dispose]() {} };
  let seen = 0;
  for (const { keys, values, count } of CONVERTERS_FROM_1.mesh_ct?.convert(source) ?? []) {
    t.equal(values.byteLength, count * CT_VALUE.size);
    for (let at = 0; at < count; at += 1) {
      const index = keys.getUint16(at * CT_KEY.size + CT_KEY.fields.sourcePort);
      const offset = at * CT_VALUE.size;
      const { fields } = CT_VALUE;
      t.equal(values.getBigUint64(offset + fields.expiresNs, true), EXPIRES);
      t.equal(values.getUint32(offset + fields.identity, true), 70_000 + index);
      const flags = values.getUint8(offset + fields.flags);
      t.equal(flags, flows[index]?.expected, `flow ${index}`);
      t.equal(flags & CT_VIA_OVERLAY, 0, 'nobody knows where it came from');
      seen += 1;
    }
  }
  t.equal(seen, flows.length);
});
