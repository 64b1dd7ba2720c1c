/** What the programs are told about the host itself: the twin of `struct host_settings` in `bpf/lib/host.h`. */
import { type BpfObject, declaredMaps } from './bpf.ts';
import { DatapathError } from './datapath-error.ts';

/** What policies of the host never cut off. */
export interface HostSettings {
  /** UDP port of the tunnel. */
  readonly tunnelPort: number;
  /** TCP ports by which hosts and nodes of the mesh talk about the mesh itself, at most MOST_OPEN_PORTS. */
  readonly openPorts: readonly number[];
}

/** As Cilium's and ours have it by default. */
export const DEFAULT_TUNNEL_PORT = 8472;

/**
 * The gate, enrolment and the registry of clustermesh-apiserver, and the health port of nodes. What a node's own files name
 * besides comes from `start.ts`.
 */
export const DEFAULT_OPEN_PORTS: readonly number[] = [2379, 2380, 2381, 4240];

/** How many ports there is room for. */
export const MOST_OPEN_PORTS = 15;

const SECTION = '.rodata.host';
const SIZE = 2 * (1 + MOST_OPEN_PORTS);

/**
 * Tells the programs of an object, before it is loaded, which packets are the mesh's own. Throws `bad-option` for more
 * ports than there is room for.
 */
export function setHostSettings(object: BpfObject, { tunnelPort, openPorts }: HostSettings): void {
  const ports = [...new Set(openPorts)];
  if (ports.length > MOST_OPEN_PORTS) {
    throw new DatapathError(
      'bad-option',
      `cannot keep ${ports.length} ports of the mesh open on this host: at most ${MOST_OPEN_PORTS} are possible; give fewer endpoints in the etcd client file`,
    );
  }
  const value = Buffer.alloc(SIZE);
  value.writeUInt16BE(tunnelPort, 0);
  for (const [index, port] of ports.entries()) value.writeUInt16BE(port, 2 * (index + 1));
  for (const map of declaredMaps(object)) {
    if (map.name === SECTION) map.setInitialValue(value);
  }
}
