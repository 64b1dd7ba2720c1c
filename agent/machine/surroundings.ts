/** What the checks of joining look at on this machine; tests put in what no test machine has. */
import { execFile } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { existsSync, readdirSync, statfsSync } from 'node:fs';
import { connect, isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import {
  type IpAddress,
  type IpPrefix,
  parseIpAddress,
  parseIpPrefix,
} from '../../mesh/wire/ip.ts';
import { isAnswering } from '../api/client.ts';
import { findCgroupRoot } from '../datapath/cgroup-root.ts';
import { interfaceMtus } from '../datapath/devices.ts';
import { findKubeProxy } from '../datapath/kube-proxy.ts';
import { findPortHolder, holderText } from '../datapath/port-holder.ts';
import { preflightProblems } from '../datapath/preflight.ts';
import { reasonOf } from './machine-error.ts';

const run = promisify(execFile);
const COMMAND_TIMEOUT_MS = 5000;
const routeSchema = z.array(
  z.looseObject({ dev: z.string().optional(), prefsrc: z.string().optional() }),
);

/** An address of this machine that others can reach it by. */
export interface OwnAddress {
  readonly address: IpAddress;
  readonly network: IpPrefix;
  readonly interfaceName: string;
}

/** By what a server is reached. */
export interface Route {
  readonly interfaceName: string;
  readonly source: IpAddress;
}

/** Where the datapath of the machine will be. */
export interface DatapathPlace {
  readonly bpfRoot: string;
  readonly cgroupRoot: string;
  readonly objectDir: string;
}

/** Where a datapath is on this machine unless flags say otherwise. `objectDir`: eBPF programs as installed. */
export function usualPlace(objectDir: string): DatapathPlace {
  return { bpfRoot: '/sys/fs/bpf', cgroupRoot: findCgroupRoot(), objectDir };
}

/** This machine, as the checks see it. */
export interface Surroundings {
  readonly userId: number;
  now(): number;
  /** What the datapath lacks, a sentence each. */
  datapathProblems(place: DatapathPlace): readonly string[];
  /** Addresses but for loopback and link-local ones. */
  ownAddresses(): readonly OwnAddress[];
  /** MTU of every interface, by its name. */
  mtus(signal: AbortSignal): Promise<ReadonlyMap<string, number>>;
  /** Addresses of a name; an address is its own. Rejects with the reason. */
  resolve(host: string): Promise<readonly IpAddress[]>;
  /** Rejects with the reason when there is no route. */
  routeTo(address: IpAddress, signal: AbortSignal): Promise<Route>;
  /** Why no TCP connection can be made; undefined: one can. */
  connectProblem(server: HostPort, options: ConnectOptions): Promise<string | undefined>;
  /** Who has a UDP port, in words; undefined: nobody. */
  udpPortHolder(port: number): string | undefined;
  /** Bytes that can still be written where a folder is or will be. */
  freeBytes(folder: string): number;
  isAgentAnswering(socketPath: string): Promise<boolean>;
  /** Names in a folder; empty where there is none. */
  namesIn(folder: string): readonly string[];
  /** What of a kube-proxy is here, in words; undefined: nothing. */
  kubeProxy(): Promise<string | undefined>;
}

/** How long a connection may take. */
export interface ConnectOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** The machine that this process runs on, in its network namespace. */
export function thisMachine(): Surroundings {
  return {
    userId: process.geteuid?.() ?? -1,
    now: () => Date.now(),
    datapathProblems: (place) => preflightProblems(place),
    ownAddresses: readOwnAddresses,
    mtus: (signal) => interfaceMtus(signal),
    async resolve(host) {
      if (isIP(host) !== 0) return [parseIpAddress(host)];
      const found = await lookup(host, { all: true });
      return found.map(({ address }) => parseIpAddress(address));
    },
    routeTo,
    connectProblem,
    udpPortHolder(port) {
      const holder = findPortHolder(port);
      return holder === undefined ? undefined : holderText(holder);
    },
    freeBytes(folder) {
      let existing = folder;
      while (!existsSync(existing) && dirname(existing) !== existing) existing = dirname(existing);
      const { bavail, bsize } = statfsSync(existing);
      return bavail * bsize;
    },
    isAgentAnswering: (socketPath) => isAnswering(socketPath),
    namesIn: (folder) => (existsSync(folder) ? readdirSync(folder) : []),
    kubeProxy: () => findKubeProxy(),
  };
}

/** Addresses of this machine that others can reach it by. */
export function readOwnAddresses(): OwnAddress[] {
  return Object.entries(networkInterfaces()).flatMap(([interfaceName, addresses = []]) =>
    addresses.flatMap(({ address, cidr, internal }) => {
      if (internal || cidr === null || isLinkLocal(address)) return [];
      return [{ address: parseIpAddress(address), network: parseIpPrefix(cidr), interfaceName }];
    }),
  );
}

function isLinkLocal(address: string): boolean {
  return address.startsWith('169.254.') || /^fe[89ab]/i.test(address);
}

async function routeTo(address: IpAddress, signal: AbortSignal): Promise<Route> {
  let stdout: string;
  try {
    ({ stdout } = await run('ip', ['-json', 'route', 'get', address], {
      timeout: COMMAND_TIMEOUT_MS,
      signal,
    }));
  } catch (cause) {
    signal.throwIfAborted();
    const said = cause instanceof Error && 'stderr' in cause ? String(cause.stderr).trim() : '';
    throw new Error(said === '' ? reasonOf(cause) : said, { cause });
  }
  const [route] = routeSchema.parse(JSON.parse(stdout));
  if (route?.dev === undefined || route.prefsrc === undefined) {
    throw new Error(`"ip route get ${address}" names no interface and source`);
  }
  return { interfaceName: route.dev, source: parseIpAddress(route.prefsrc) };
}

function connectProblem(server: HostPort, options: ConnectOptions): Promise<string | undefined> {
  const { timeoutMs, signal } = options;
  return new Promise((resolve, reject) => {
    const within = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
    const socket = connect(server);
    const end = (problem: string | undefined): void => {
      within.removeEventListener('abort', onAbort);
      socket.destroy();
      resolve(problem);
    };
    const onAbort = (): void => {
      socket.destroy();
      if (signal.aborted) reject(signal.reason);
      else resolve(`no answer within ${timeoutMs / 1000} s`);
    };
    within.addEventListener('abort', onAbort, { once: true });
    socket.once('connect', () => end(undefined));
    socket.once('error', (error) => end(reasonOf(error)));
  });
}

/** Where the agent pins its maps and links. */
export function pinFolder(bpfRoot: string): string {
  return join(bpfRoot, 'isthmus');
}
