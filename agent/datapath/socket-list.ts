/** Sockets of a network namespace, and their end: by the `ss` of iproute2, which asks the kernel by INET_DIAG. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { LostBackend } from './ops/services.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 10_000;
/** Sockets that are ended by one program: their filter must fit into 64 KiB of the kernel's own code. */
const SOCKETS_EACH = 128;

/** A socket that waits for the other side: UDP that is connected, TCP that is not yet. */
export interface WaitingSocket {
  readonly cookie: bigint;
  /** Protocol, address and port of the other side, as in `LostBackend`. */
  readonly peer: LostBackend['backend'];
  readonly protocol: 'TCP' | 'UDP';
  /** Both ends as `ss` writes them. */
  readonly local: string;
  readonly remote: string;
}

const STATES = { TCP: ['-t', 'state', 'syn-sent'], UDP: ['-u', 'state', 'established'] } as const;

/** Runs a program and returns what it writes. Rejects with the error of `node:child_process`. */
export type RunProgram = (argv: readonly string[], signal: AbortSignal) => Promise<string>;

/** Runs a program of this machine, for ten seconds at most. */
export const runProgram: RunProgram = async ([file = '', ...args], signal) => {
  const { stdout } = await run(file, args, {
    signal,
    timeout: TIMEOUT_MS,
    maxBuffer: 256 * 1024 * 1024,
  });
  return stdout;
};

/** Where sockets are looked for: the path of a network namespace, undefined: this process's own. */
export type SocketPlace = string | undefined;

/** Lists waiting sockets of a protocol. Default for `filter`, as `ss` takes it: all. Rejects when `ss` cannot be run. */
export async function listWaitingSockets(
  place: SocketPlace,
  protocol: WaitingSocket['protocol'],
  options: {
    readonly run: RunProgram;
    readonly signal: AbortSignal;
    readonly filter?: string | undefined;
  },
): Promise<WaitingSocket[]> {
  const filter = options.filter === undefined ? [] : [options.filter];
  const argv = [...enter(place), 'ss', '-H', '-n', '-e', '-O', ...STATES[protocol], ...filter];
  const text = await options.run(argv, options.signal);
  return text.split('\n').flatMap((line) => parseSocket(line, protocol));
}

/** Ends sockets: whoever uses one gets an error at once, and may connect again. Rejects as listWaitingSockets(). */
export async function endSockets(
  place: SocketPlace,
  sockets: readonly WaitingSocket[],
  options: { readonly run: RunProgram; readonly signal: AbortSignal },
): Promise<void> {
  for (const protocol of ['UDP', 'TCP'] as const) {
    const filters = sockets.filter((socket) => socket.protocol === protocol).map(filterOf);
    for (let start = 0; start < filters.length; start += SOCKETS_EACH) {
      const filter = filters.slice(start, start + SOCKETS_EACH).join(' or ');
      const argv = [...enter(place), 'ss', '-K', '-H', '-n', ...STATES[protocol], filter];
      await options.run(argv, options.signal);
    }
  }
}

function filterOf({ local, remote }: Pick<WaitingSocket, 'local' | 'remote'>): string {
  return `( src ${local} and dst ${remote} )`;
}

function enter(place: SocketPlace): string[] {
  return place === undefined ? [] : ['nsenter', `--net=${place}`];
}

/** One line of `ss -H -n -e -O` with one state asked for: queues, both ends, then details with the cookie. */
function parseSocket(line: string, protocol: WaitingSocket['protocol']): WaitingSocket[] {
  const [, , local, remote] = line.trim().split(/\s+/);
  const cookie = / sk:([0-9a-f]+)/.exec(line)?.[1];
  if (local === undefined || remote === undefined || cookie === undefined) return [];
  const peer = splitEnd(remote);
  if (peer === undefined) return [];
  return [
    {
      cookie: BigInt(`0x${cookie}`),
      peer: `${protocol} ${peer.address.replace(/^::ffff:(?=[\d.]+$)/, '')} ${peer.port}`,
      protocol,
      local: withoutDevice(local),
      remote: withoutDevice(remote),
    },
  ];
}

function splitEnd(text: string): { address: string; port: string } | undefined {
  const match = /^\[?([0-9a-f.:]+)\]?:(\d+)$/.exec(withoutDevice(text));
  const [, address, port] = match ?? [];
  return address === undefined || port === undefined ? undefined : { address, port };
}

/** A socket that is bound to a device is written with it, in a form that no filter takes. */
function withoutDevice(text: string): string {
  return text.replace(/%[^\]:]+/, '');
}
