/** Which sockets of this node talk to a backend because they called a frontend. */
import { protocolName, readAddress, SOCKET_KEY, TRANSLATION } from '../../../mesh/wire/maps.ts';
import { readMapParts } from '../map.ts';
import type { OpenMap } from '../object.ts';
import { frontendKeyOf } from './service-map.ts';
import type { LostBackend } from './services.ts';

/** A socket that called `frontend` and was sent to `backend`. Both are named as in `LostBackend`. */
export interface TranslatedSocket extends LostBackend {
  /** Number of the socket, unique on the machine. */
  readonly cookie: bigint;
}

/** Entries that are read in one go: a millisecond or two of work. */
const PART = 2048;

/** Reads `mesh_translations` a part at a time; between parts sockets come and go. */
export function* readTranslations(map: OpenMap): Generator<TranslatedSocket[]> {
  const { size: keySize, fields } = SOCKET_KEY;
  const { size: valueSize, fields: value } = TRANSLATION;
  let seen = 0;
  for (const part of readMapParts({ name: map.name, fd: map.fd, keySize, valueSize }, PART)) {
    const sockets: TranslatedSocket[] = [];
    for (let index = 0; index < part.count; index += 1) {
      const key = index * keySize;
      const at = index * valueSize;
      const protocol = protocolName(part.values.getUint8(at + value.protocol));
      // Written by a program of an older version, which did not say.
      if (protocol === undefined) continue;
      const address = readAddress(part.keys, key + fields.address);
      sockets.push({
        cookie: part.keys.getBigUint64(key + fields.cookie, true),
        backend: `${protocol} ${address} ${part.keys.getUint16(key + fields.port)}`,
        frontend: frontendKeyOf({
          protocol,
          address: readAddress(part.values, at + value.address),
          port: part.values.getUint16(at + value.port),
          scope: 'internal',
        }),
      });
    }
    yield sockets;
    seen += part.count;
    // The kernel begins anew when the key it stands at was deleted: that must not go on for ever.
    if (seen > 2 * map.maxEntries) return;
  }
}
