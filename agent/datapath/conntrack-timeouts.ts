/** After how long a silent flow is forgotten: the twin of `struct ct_timeouts` in `bpf/lib/conntrack.h`. */
import { type BpfObject, declaredMaps } from './bpf.ts';
import type { ConntrackTimeouts } from './desired.ts';

const SECTION = '.rodata.conntrack';
const SIZE = 16;

/** Tells the programs of an object, before it is loaded, their timeouts. They hold from the next packet of a flow on. */
export function setConntrackTimeouts(
  object: BpfObject,
  { tcpSyn, tcp, tcpFin, any }: ConntrackTimeouts,
): void {
  const value = Buffer.alloc(SIZE);
  for (const [index, seconds] of [tcpSyn, tcp, tcpFin, any].entries()) {
    value.writeUInt32LE(seconds, index * 4);
  }
  for (const map of declaredMaps(object)) {
    if (map.name === SECTION) map.setInitialValue(value);
  }
}
