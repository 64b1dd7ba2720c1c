import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const TIMEOUT_MS = 10_000;

/** Both ends of a container's veth. */
export interface VethPair {
  readonly hostInterface: string;
  /** Of the host's end. */
  readonly ifindex: number;
  /** Of the container's end. */
  readonly mac: string;
}

/** What the agent asks of the node's network interfaces. */
export interface Interfaces {
  /** Finds the host's end of an interface in another network namespace. Throws an Error that says what is missing. */
  findVeth(netns: string, ifName: string): Promise<VethPair>;
  /** Indexes of this node's interfaces by name. */
  indexes(): Promise<ReadonlyMap<string, number>>;
}

interface Link {
  readonly ifindex: number;
  readonly ifname: string;
  readonly address: string;
  /** Index of the other end, in its own namespace. */
  readonly linkIndex: number | undefined;
}

/** Reads interfaces by iproute2. */
export function createInterfaces(): Interfaces {
  return {
    async findVeth(netns, ifName) {
      const [inside] = await readLinks('nsenter', [
        `--net=${netns}`,
        'ip',
        '-json',
        'link',
        'show',
        'dev',
        ifName,
      ]);
      if (inside?.linkIndex === undefined) {
        throw new Error(
          `interface ${ifName} in ${netns} is not one end of a veth pair: chain after a plugin that makes one, such as ptp or bridge`,
        );
      }
      const links = await readLinks('ip', ['-json', 'link', 'show']);
      const host = links.find(
        (link) => link.ifindex === inside.linkIndex && link.linkIndex === inside.ifindex,
      );
      if (host === undefined) {
        throw new Error(
          `the other end of ${ifName} in ${netns} (index ${inside.linkIndex}) is not in the network namespace of this agent`,
        );
      }
      return { hostInterface: host.ifname, ifindex: host.ifindex, mac: inside.address };
    },
    async indexes() {
      const links = await readLinks('ip', ['-json', 'link', 'show']);
      return new Map(links.map(({ ifname, ifindex }) => [ifname, ifindex]));
    },
  };
}

async function readLinks(command: string, args: readonly string[]): Promise<Link[]> {
  let text: string;
  try {
    const { stdout } = await run(command, [...args], {
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
  const parsed: unknown = JSON.parse(text === '' ? '[]' : text);
  return Array.isArray(parsed) ? parsed.flatMap(parseLink) : [];
}

function parseLink(value: unknown): Link[] {
  if (typeof value !== 'object' || value === null) return [];
  const object = value as Readonly<Record<string, unknown>>;
  const { ifindex, ifname, address, link_index: linkIndex } = object;
  if (typeof ifindex !== 'number' || typeof ifname !== 'string') return [];
  return [
    {
      ifindex,
      ifname,
      address: typeof address === 'string' ? address : '',
      linkIndex: typeof linkIndex === 'number' ? linkIndex : undefined,
    },
  ];
}
