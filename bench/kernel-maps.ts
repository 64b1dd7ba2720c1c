/** Looking into an agent's pinned maps from outside, without the agent's help. */
import { closeSync } from 'node:fs';
import { lookupElement, openPinned } from '../agent/datapath/bpf.ts';
import { readMap } from '../agent/datapath/map.ts';
import type { IpAddress } from '../mesh/wire/ip.ts';
import { IPCACHE_VALUE, IPCACHE4_KEY, writeIpv4 } from '../mesh/wire/maps.ts';

/** The agent's table of IPv4 addresses. */
export interface IpcacheView extends Disposable {
  readonly fd: number;
  /** Identity behind an address now; undefined: the map has no row of it. */
  identityOf(ip: IpAddress): number | undefined;
  count(): number;
}

/** Key of a whole IPv4 address in the agent's table. */
export function ipcacheKey(ip: IpAddress): Uint8Array {
  const bytes = new Uint8Array(IPCACHE4_KEY.size);
  const view = new DataView(bytes.buffer);
  view.setUint32(IPCACHE4_KEY.fields.prefixlen, 32, true);
  writeIpv4(view, IPCACHE4_KEY.fields.address, ip);
  return bytes;
}

/** Identity that a row's value holds. */
export function readIdentity(value: Uint8Array): number {
  return new DataView(value.buffer, value.byteOffset).getUint32(
    IPCACHE_VALUE.fields.identity,
    true,
  );
}

/** Opens the pinned map of an agent; undefined while there is none. */
export function openIpcacheView(bpfRoot: string): IpcacheView | undefined {
  const fd = openPinned(`${bpfRoot}/isthmus/maps/mesh_ipcache4`);
  if (fd === undefined) return undefined;
  const value = new Uint8Array(IPCACHE_VALUE.size);
  return {
    fd,
    identityOf: (ip) =>
      lookupElement(fd, ipcacheKey(ip), value) ? readIdentity(value) : undefined,
    count() {
      let total = 0;
      const map = { name: 'ipcache', keySize: IPCACHE4_KEY.size, valueSize: IPCACHE_VALUE.size };
      readMap(fd, map, (_keys, _values, count) => {
        total += count;
      });
      return total;
    },
    [Symbol.dispose]: () => closeSync(fd),
  };
}
