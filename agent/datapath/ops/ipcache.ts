import { parseMapIdentity } from '../../../mesh/wire/ids.ts';
import {
  type IpPrefix,
  ipFamily,
  ipFromBytes,
  makePrefix,
  splitPrefix,
} from '../../../mesh/wire/ip.ts';
import {
  IPCACHE_HAS_TUNNEL,
  IPCACHE_VALUE,
  IPCACHE4_KEY,
  IPCACHE6_KEY,
  readAddress,
  writeAddress,
  writeIpv4,
} from '../../../mesh/wire/maps.ts';
import type { DatapathTable, IpcacheEntry } from '../desired.ts';
import { createRowMap, type RowCodec, throwFirst } from '../map.ts';
import type { OpenMaps } from '../object.ts';

type IpcacheKey = Pick<IpcacheEntry, 'prefix'>;

/** The two prefix tries, IPv4 and IPv6, as one table. */
export function openIpcacheTable(
  maps: OpenMaps,
): DatapathTable<IpcacheEntry, Pick<IpcacheEntry, 'prefix'>> {
  const ipv4 = createRowMap(maps.get('mesh_ipcache4'), prefixCodec(4));
  const ipv6 = createRowMap(maps.get('mesh_ipcache6'), prefixCodec(6));
  return {
    name: 'ipcache',
    apply({ upserts, deletes }) {
      throwFirst([
        ...ipv4.upsert(ofFamily(upserts, 4)),
        ...ipv6.upsert(ofFamily(upserts, 6)),
        ...ipv4.remove(ofFamily(deletes, 4)),
        ...ipv6.remove(ofFamily(deletes, 6)),
      ]);
    },
    rows: () => [...ipv4.rows(), ...ipv6.rows()],
    *scan() {
      yield* ipv4.scan();
      yield* ipv6.scan();
    },
    keyOf: (row) => row.prefix,
  };
}

function ofFamily<Key extends IpcacheKey>(rows: readonly Key[], family: 4 | 6): Key[] {
  return rows.filter((row) => ipFamily(row.prefix) === family);
}

function prefixCodec(family: 4 | 6): RowCodec<IpcacheEntry, IpcacheKey> {
  const key = family === 4 ? IPCACHE4_KEY : IPCACHE6_KEY;
  const addressSize = family === 4 ? 4 : 16;
  return {
    keySize: key.size,
    valueSize: IPCACHE_VALUE.size,
    writeKey(view, offset, { prefix }) {
      const slash = prefix.indexOf('/');
      view.setUint32(offset + key.fields.prefixlen, Number(prefix.slice(slash + 1)), true);
      if (family === 4) {
        writeIpv4(view, offset + key.fields.address, prefix);
      } else {
        writeAddress(view, offset + key.fields.address, splitPrefix(prefix).address);
      }
    },
    writeValue: writeIpcacheValue,
    readRow(keys, keyOffset, values, valueOffset) {
      const start = keys.byteOffset + keyOffset + key.fields.address;
      const address = ipFromBytes(new Uint8Array(keys.buffer, start, addressSize).slice());
      const length = keys.getUint32(keyOffset + key.fields.prefixlen, true);
      return readIpcacheValue(makePrefix(address, length), values, valueOffset);
    },
    describe: ({ prefix }) => prefix,
  };
}

function writeIpcacheValue(view: DataView, offset: number, row: IpcacheEntry): void {
  const { fields } = IPCACHE_VALUE;
  view.setUint32(offset + fields.identity, row.identity, true);
  view.setUint16(offset + fields.clusterId, row.clusterId, true);
  if (row.tunnelEndpoint === undefined) return;
  writeAddress(view, offset + fields.tunnelEndpoint, row.tunnelEndpoint);
  view.setUint8(offset + fields.flags, IPCACHE_HAS_TUNNEL);
}

function readIpcacheValue(prefix: IpPrefix, view: DataView, offset: number): IpcacheEntry {
  const { fields } = IPCACHE_VALUE;
  const hasTunnel = (view.getUint8(offset + fields.flags) & IPCACHE_HAS_TUNNEL) !== 0;
  return {
    prefix,
    identity: parseMapIdentity(view.getUint32(offset + fields.identity, true)),
    tunnelEndpoint: hasTunnel ? readAddress(view, offset + fields.tunnelEndpoint) : undefined,
    clusterId: view.getUint16(offset + fields.clusterId, true),
  };
}
