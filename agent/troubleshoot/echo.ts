/** Echo requests by the machine's `ping`: they need a raw socket, which Node does not have. */
import { execFile } from 'node:child_process';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';

/** Longest time that one request may take, in seconds; two are sent, since the first may be lost to neighbour discovery. */
const WAIT_SECONDS = 1;
const LIMIT_MS = 3_000;
/** ICMP and IP headers before the data of an echo. */
const HEADER_BYTES = { 4: 28, 6: 48 } as const;

/** What became of a request. */
export type EchoOutcome = 'answered' | 'silent' | 'no-program';

/** Asks an address for an echo. Never rejects. */
export type Echo = (
  address: IpAddress,
  options: {
    /** Size of the IP packet, which nobody may cut into pieces. Default: a small one. */
    readonly bytes?: number;
    /** Path of the network namespace to ask from. Default: the agent's own. */
    readonly netns?: string;
    readonly signal: AbortSignal;
  },
) => Promise<EchoOutcome>;

/** Asks by `ping`, in another namespace by `nsenter`. */
export const askEcho: Echo = (address, { bytes, netns, signal }) => {
  const size =
    bytes === undefined ? [] : ['-M', 'do', '-s', String(bytes - HEADER_BYTES[ipFamily(address)])];
  const ping = [
    'ping',
    '-n',
    '-q',
    '-c',
    '2',
    '-i',
    '0.2',
    '-W',
    String(WAIT_SECONDS),
    ...size,
    address,
  ];
  const [program = 'ping', ...args] =
    netns === undefined ? ping : ['nsenter', `--net=${netns}`, ...ping];
  return new Promise((resolve) => {
    execFile(program, args, { timeout: LIMIT_MS, signal }, (error) => {
      if (error === null) resolve('answered');
      else resolve('code' in error && error.code === 'ENOENT' ? 'no-program' : 'silent');
    });
  });
};
