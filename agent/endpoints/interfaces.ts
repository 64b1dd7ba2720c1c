import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { type Link, parseLinks } from './link.ts';
import { watchLinks } from './link-monitor.ts';
import { findNetworkNamespaces } from './network-namespaces.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 10_000;
/** Programs at a time: a hundred pods may be started in the same second. */
const MAX_PROGRAMS = 4;

/** Both ends of a container's veth. */
export interface VethPair {
  readonly hostInterface: string;
  /** Of the host's end. */
  readonly ifindex: number;
  /** Of the container's end. */
  readonly mac: string;
}

/** An interface in a container, as it is found there. */
export interface ContainerInterface extends VethPair {
  /** Path by which its network namespace can be entered. */
  readonly netns: string;
  readonly ifName: string;
  /** Those of global scope. */
  readonly addresses: readonly IpAddress[];
}

/** What the agent asks of the node's network interfaces. */
export interface Interfaces {
  /** Finds the host's end of an interface in another network namespace. Throws an Error that says what is missing. */
  findVeth(netns: string, ifName: string): Promise<VethPair>;
  /** Indexes of this node's interfaces by name. */
  indexes(): Promise<ReadonlyMap<string, number>>;
  /**
   * Interfaces in other network namespaces whose other end is here and not among `known` (indexes of host interfaces).
   * Namespaces that cannot be entered are left out.
   */
  containers(known: ReadonlySet<number>): Promise<readonly ContainerInterface[]>;
  /** Says when interfaces of this node came, went or changed; also at the start. Ends when `signal` aborts. */
  changes(signal: AbortSignal): AsyncIterable<'changed'>;
}

/** Reads interfaces by iproute2. */
export function createInterfaces(options: {
  readonly clock: Clock;
  readonly logger: Logger;
}): Interfaces {
  const limited = createLimit(MAX_PROGRAMS);
  const read = (argv: readonly string[]): Promise<Link[]> => limited(() => readLinks(argv));
  const readHost = shareNext(() => read(['ip', '-json', 'link', 'show']));
  const readInside = (netns: string, ...show: string[]): Promise<Link[]> =>
    read(['nsenter', `--net=${netns}`, 'ip', '-json', ...show]);
  return {
    async findVeth(netns, ifName) {
      const [inside] = await readInside(netns, 'link', 'show', 'dev', ifName);
      if (inside?.linkIndex === undefined) {
        throw new Error(
          `interface ${ifName} in ${netns} is not one end of a veth pair: chain after a plugin that makes one, such as ptp or bridge`,
        );
      }
      const host = (await readHost()).find((link) => isPair(link, inside));
      if (host === undefined) {
        throw new Error(
          `the other end of ${ifName} in ${netns} (index ${inside.linkIndex}) is not in the network namespace of this agent`,
        );
      }
      return { hostInterface: host.ifname, ifindex: host.ifindex, mac: inside.address };
    },
    async indexes() {
      return new Map((await readHost()).map(({ ifname, ifindex }) => [ifname, ifindex]));
    },
    async containers(known) {
      const hosts = (await readHost()).filter(
        ({ ifindex, linkNamespace }) => linkNamespace !== undefined && !known.has(ifindex),
      );
      if (hosts.length === 0) return [];
      const numbers = new Set(hosts.flatMap(({ linkNamespace }) => linkNamespace ?? []));
      const found = await Promise.all(
        [...(await findNetworkNamespaces(numbers))].map(async ([number, netns]) => {
          // It went between the listing and this.
          const links = await readInside(netns, 'address', 'show').catch((): Link[] => []);
          // Indexes alone may be those of a veth between two other namespaces.
          const ends = hosts.filter(({ linkNamespace }) => linkNamespace === number);
          return links.flatMap((inside) => containerInterface(netns, inside, ends));
        }),
      );
      return found.flat();
    },
    changes: (signal) => watchLinks(signal, options),
  };
}

function isPair(host: Link, inside: Link): boolean {
  return host.ifindex === inside.linkIndex && host.linkIndex === inside.ifindex;
}

function containerInterface(
  netns: string,
  inside: Link,
  hosts: readonly Link[],
): ContainerInterface[] {
  const host = hosts.find((link) => isPair(link, inside));
  if (host === undefined) return [];
  return [
    {
      netns,
      ifName: inside.ifname,
      hostInterface: host.ifname,
      ifindex: host.ifindex,
      mac: inside.address,
      addresses: inside.addresses,
    },
  ];
}

async function readLinks([command = '', ...args]: readonly string[]): Promise<Link[]> {
  let text: string;
  try {
    const { stdout } = await run(command, args, {
      timeout: TIMEOUT_MS,
      maxBuffer: 64 * 1024 * 1024,
    });
    text = stdout;
  } catch (cause) {
    const reason = cause instanceof Error && 'stderr' in cause ? String(cause.stderr).trim() : '';
    throw new Error(
      `cannot read interfaces: ${[command, ...args].join(' ')}: ${reason || String(cause)}`,
      { cause },
    );
  }
  return parseLinks(text);
}

/** Lets so many run at a time; the others wait for their turn. */
function createLimit(most: number): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (work) => {
    if (running >= most) await new Promise<void>((resolve) => waiting.push(resolve));
    else running += 1;
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) running -= 1;
      else next();
    }
  };
}

/** All who ask while one read runs share the next one, which begins after they asked. */
function shareNext<T>(read: () => Promise<T>): () => Promise<T> {
  let running: Promise<unknown> | undefined;
  let next: Promise<T> | undefined;
  const start = (): Promise<T> => {
    const result = read();
    const ended = (): void => {
      running = undefined;
    };
    running = result.then(ended, ended);
    return result;
  };
  return () => {
    if (running === undefined) return start();
    next ??= running.then(() => {
      next = undefined;
      return start();
    });
    return next;
  };
}
