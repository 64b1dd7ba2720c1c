/** Which backends still count for clients and sockets that remember theirs. */
import { MEMBER_ACTIVE, MEMBER_DRAINING, MEMBER_KEY } from '../../../mesh/wire/maps.ts';
import type { RowCodec } from '../map.ts';

export interface MemberKey {
  readonly serviceId: number;
  readonly backendId: number;
}

export interface MemberRow extends MemberKey {
  readonly state: 'active' | 'draining';
}

export const memberCodec: RowCodec<MemberRow, MemberKey> = {
  keySize: MEMBER_KEY.size,
  valueSize: 4,
  writeKey(view, offset, { serviceId, backendId }) {
    view.setUint32(offset + MEMBER_KEY.fields.serviceId, serviceId, true);
    view.setUint32(offset + MEMBER_KEY.fields.backendId, backendId, true);
  },
  writeValue(view, offset, { state }) {
    view.setUint32(offset, state === 'active' ? MEMBER_ACTIVE : MEMBER_DRAINING, true);
  },
  readRow: (keys, keyOffset, values, valueOffset) => ({
    serviceId: keys.getUint32(keyOffset + MEMBER_KEY.fields.serviceId, true),
    backendId: keys.getUint32(keyOffset + MEMBER_KEY.fields.backendId, true),
    state: values.getUint32(valueOffset, true) === MEMBER_ACTIVE ? 'active' : 'draining',
  }),
  describe: ({ serviceId, backendId }) => `member ${backendId} of service ${serviceId}`,
};
