/** Whether the nodes of a cluster can be reached from this one, before it is a peer: nothing of it is known to the datapath yet. */
import { createSocket } from 'node:dgram';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { type Probe, probeNode } from './probe.ts';

/** A header of VXLAN that carries nothing: its receiver throws it away. */
const EMPTY_VXLAN = Buffer.alloc(8);
/** One datagram may be lost to neighbour discovery, and an error to a router that sends few of them. */
const DATAGRAMS = 3;
const PAUSE_MS = 200;

/** A question of the registry. */
export interface ReachQuestion {
  readonly addresses: readonly IpAddress[];
  /** Port of their tunnel; undefined: there is none. */
  readonly udpPort: number | undefined;
}

/** What was seen of a node. `problem` is for people; undefined: nothing is in the way, as far as can be seen from here. */
export interface NodeReach {
  readonly address: IpAddress;
  readonly problem: string | undefined;
}

/** Looks at nodes. Rejects only when `signal` aborts. */
export type LookAtNodes = (
  question: ReachQuestion,
  options: { readonly signal: AbortSignal },
) => Promise<readonly NodeReach[]>;

/**
 * Looks at each node: whether it answers at all, and whether somebody says that the port of its tunnel is closed to us. A port
 * whose packets are dropped without a word looks like an open one, since nobody answers what is tunnelled by a stranger.
 */
export function lookAtNodes(
  { addresses, udpPort }: ReachQuestion,
  { signal, probe = probeNode }: { readonly signal: AbortSignal; readonly probe?: Probe },
): Promise<NodeReach[]> {
  return Promise.all(
    addresses.map(async (address): Promise<NodeReach> => {
      const [answer, refusal] = await Promise.all([
        probe(address, signal),
        udpPort === undefined ? undefined : askUdp(address, { port: udpPort, signal }),
      ]);
      const problem =
        answer === 'silent'
          ? 'it does not answer (TCP 4240, ICMP echo)'
          : refusal && `UDP port ${udpPort} is closed (${refusal})`;
      return { address, problem };
    }),
  );
}

/** Sends datagrams that mean nothing; the error that comes back for them, if one does. */
function askUdp(
  address: IpAddress,
  { port, signal }: { readonly port: number; readonly signal: AbortSignal },
): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket(ipFamily(address) === 4 ? 'udp4' : 'udp6');
    const end = (refusal?: string): void => {
      clearInterval(timer);
      signal.removeEventListener('abort', onAbort);
      socket.close();
      resolve(refusal);
    };
    const onAbort = (): void => end();
    const onError = (error: Error): void => {
      socket.removeAllListeners('error').on('error', () => undefined);
      end('code' in error ? String(error.code) : error.message);
    };
    let left = DATAGRAMS;
    const send = (): void => {
      if (left === 0) {
        end();
        return;
      }
      left -= 1;
      socket.send(EMPTY_VXLAN, (error) => {
        if (error !== null && error !== undefined) socket.emit('error', error);
      });
    };
    const timer = setInterval(send, PAUSE_MS);
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('error', onError);
    // Given as an argument it would be called when that fails as well.
    socket.once('connect', send);
    socket.connect(port, address);
    if (signal.aborted) end();
  });
}
