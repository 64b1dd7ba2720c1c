import { execFile } from 'node:child_process';
import { connect } from 'node:net';
import type { IpAddress } from '../../mesh/wire/ip.ts';

/** Where Cilium's agents answer health probes (`pkg/health/defaults.HTTPPathPort`). */
const HEALTH_PORT = 4240;
const TIMEOUT_MS = 1000;

/** Asks whether a machine is there. Never rejects but for an aborted signal. */
export type Probe = (address: IpAddress, signal: AbortSignal) => Promise<'answered' | 'silent'>;

/**
 * Asks a node by a TCP connection to Cilium's health port: accepted or refused, its kernel has answered, whether or not
 * anybody listens there. A node whose firewall drops that is asked by an ICMP echo, through the machine's `ping`, since
 * an echo needs a raw socket that Node does not have. Needs no privilege, and nothing on the other side.
 */
export const probeNode: Probe = async (address, signal) => {
  if (await answersTcp(address, { port: HEALTH_PORT, timeoutMs: TIMEOUT_MS, signal })) {
    return 'answered';
  }
  return (await answersEcho(address, signal)) ? 'answered' : 'silent';
};

/** Whether a machine's TCP answers on a port, by accepting or by refusing. */
export async function answersTcp(address: IpAddress, options: TcpOptions): Promise<boolean> {
  return (await askTcp(address, options)) !== 'silent';
}

/** How a machine is asked by TCP. */
export interface TcpOptions {
  readonly port: number;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** What became of a connection; `silent`: nothing came back that says anything of that machine. */
export type TcpOutcome = 'accepted' | 'refused' | 'silent';

/** Connects, and closes at once. Never rejects. */
export function askTcp(
  address: IpAddress,
  { port, timeoutMs, signal }: TcpOptions,
): Promise<TcpOutcome> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port, timeout: timeoutMs });
    const end = (outcome: TcpOutcome): void => {
      signal.removeEventListener('abort', onAbort);
      socket.destroy();
      resolve(outcome);
    };
    const onAbort = (): void => end('silent');
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) end('silent');
    socket.once('connect', () => end('accepted'));
    socket.once('timeout', () => end('silent'));
    // "No route" and "host unreachable" come from here or from a router, and say nothing for the machine.
    socket.on('error', (error) => {
      end('code' in error && error.code === 'ECONNREFUSED' ? 'refused' : 'silent');
    });
  });
}

/** Whether a machine answers an echo. A machine without `ping` hears of none. */
function answersEcho(address: IpAddress, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const args = ['-n', '-q', '-c', '1', '-W', String(TIMEOUT_MS / 1000), address];
    execFile('ping', args, { timeout: 2 * TIMEOUT_MS, signal }, (error) => resolve(error === null));
  });
}
