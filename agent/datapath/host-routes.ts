/**
 * The node's routes to endpoints elsewhere, which lead to the tunnel device: by them the node's own programs reach pods of
 * other clusters. They stand in the main table with a protocol number of their own, behind every route to the same network
 * that somebody else has made, and go with the device.
 */
import { execFile } from 'node:child_process';
import { z } from 'zod';
import { type IpAddress, type IpPrefix, ipFamily, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { createNetworkSet } from '../merge/network-set.ts';
import { DatapathError } from './datapath-error.ts';
import { ownNetworks } from './devices.ts';

/** Who made a route, as rtnetlink numbers it: one that nobody else has (iproute2 `rt_protos`). */
export const ROUTE_PROTOCOL = 73;
/** Larger than what others use, so that theirs win. */
export const ROUTE_METRIC = 8472;

const COMMAND_TIMEOUT_MS = 30_000;
const MOST_OUTPUT_BYTES = 256 * 1024 * 1024;
const MOST_PROBLEMS = 10;

const routeSchema = z.looseObject({ dst: z.string(), prefsrc: z.string().optional() });

/** The routes of the tunnel device. */
export interface HostRoutes {
  /** Makes routes to `wanted` and removes others, but for those of them that `keep` picks. Throws DatapathError `device-failed`. */
  sync(request: {
    readonly wanted: readonly IpPrefix[];
    readonly keep: (unwanted: readonly IpPrefix[]) => ReadonlySet<IpPrefix>;
    readonly signal?: AbortSignal | undefined;
  }): Promise<HostRouteResult>;
}

/** What a call of `sync` came to. */
export interface HostRouteResult {
  readonly added: number;
  readonly removed: number;
  /** Routes that stay although nobody wants them. */
  readonly kept: number;
  /** What could not be done, a sentence each with what to do. */
  readonly problems: readonly string[];
}

/** Routes of a device that is there, for nodes with these addresses. */
export function createHostRoutes(options: {
  readonly device: string;
  readonly nodeIps: readonly IpAddress[];
}): HostRoutes {
  const { device, nodeIps } = options;
  return {
    async sync({ wanted, keep, signal }) {
      const present = await listRoutes(options, signal);
      const problems: string[] = [];
      const allowed = await leaveOwnNetworks(wanted, { device, problems, signal });
      const source = new Map(nodeIps.map((address) => [ipFamily(address), address]));
      const commands: string[] = [];
      for (const prefix of allowed) {
        const from = source.get(ipFamily(prefix));
        if (from === undefined || present.get(prefix) === from) continue;
        commands.push(`route replace ${prefix} ${routeOf(device)} src ${from}`);
      }
      const added = commands.length;
      const refused = new Set(wanted.filter((prefix) => !allowed.has(prefix)));
      const others = [...present.keys()].filter((prefix) => !allowed.has(prefix));
      const kept = keep(others.filter((prefix) => !refused.has(prefix)));
      const gone = others.filter((prefix) => !kept.has(prefix));
      commands.push(...gone.map((prefix) => `route delete ${prefix} ${routeOf(device)}`));
      const failures = commands.length === 0 ? [] : await runBatch(commands, signal);
      problems.push(
        ...failures.map((text) => `a route of ${device} cannot be made or removed: ${text}`),
      );
      return {
        added,
        removed: gone.length,
        kept: kept.size,
        problems: problems.slice(0, MOST_PROBLEMS),
      };
    },
  };
}

function routeOf(device: string): string {
  return `dev ${device} proto ${ROUTE_PROTOCOL} metric ${ROUTE_METRIC}`;
}

/**
 * Those of the prefixes that lie in no network which the node itself is part of: its neighbours there, nodes above all, are
 * reached as they are. What contains such a network takes nothing from it, since the longer prefix wins.
 */
async function leaveOwnNetworks(
  wanted: readonly IpPrefix[],
  options: {
    readonly device: string;
    readonly problems: string[];
    readonly signal: AbortSignal | undefined;
  },
): Promise<ReadonlySet<IpPrefix>> {
  if (wanted.length === 0) return new Set();
  const own = createNetworkSet(await ownNetworks(options.device, options.signal));
  const allowed = new Set<IpPrefix>();
  for (const prefix of wanted) {
    const [network] = own.covering(prefix);
    if (network === undefined) allowed.add(prefix);
    else {
      options.problems.push(
        `programs of this node itself do not reach ${prefix} through the tunnel: it lies in ${network}, a network that this node is part of; renumber one of the two`,
      );
    }
  }
  return allowed;
}

/** Our routes of both families, each with its source address. */
async function listRoutes(
  { device, nodeIps }: { readonly device: string; readonly nodeIps: readonly IpAddress[] },
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<IpPrefix, string | undefined>> {
  const routes = new Map<IpPrefix, string | undefined>();
  for (const family of new Set(nodeIps.map(ipFamily))) {
    const selector = ['dev', device, 'proto', String(ROUTE_PROTOCOL)];
    const { text, failure } = await ip([`-${family}`, '-json', 'route', 'show', ...selector], {
      signal,
    });
    if (failure !== undefined) throw failed(`list routes of ${device}`, failure);
    for (const { dst, prefsrc } of z.array(routeSchema).parse(JSON.parse(text || '[]'))) {
      routes.set(parseIpPrefix(dst), prefsrc);
    }
  }
  return routes;
}

/** Runs commands of `ip`, all of them. Returns what some complained of. */
async function runBatch(
  commands: readonly string[],
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const { failure } = await ip(['-force', '-batch', '-'], {
    signal,
    input: `${commands.join('\n')}\n`,
  });
  if (failure === undefined) return [];
  const lines = failure.split('\n').filter((line) => line !== '');
  const complaints = lines.filter((line) => !line.startsWith('Command failed'));
  // A route that is to go and has gone is as it should be.
  return complaints.filter((line) => !/No such process/.test(line));
}

function failed(what: string, reason: string): DatapathError {
  return new DatapathError('device-failed', `cannot ${what}: ${reason}`, { retryable: true });
}

/** Runs `ip`. `failure`: what it said when it did not succeed. */
function ip(
  args: readonly string[],
  options: { readonly signal: AbortSignal | undefined; readonly input?: string },
): Promise<{ readonly text: string; readonly failure?: string }> {
  const { signal, input } = options;
  return new Promise((resolve, reject) => {
    const limits = { timeout: COMMAND_TIMEOUT_MS, maxBuffer: MOST_OUTPUT_BYTES };
    const child = execFile(
      'ip',
      args,
      { ...limits, ...(signal ? { signal } : {}) },
      (error, text, complaints) => {
        if (error === null) resolve({ text });
        else if (signal?.aborted === true) reject(signal.reason);
        else resolve({ text, failure: complaints.trim() || error.message });
      },
    );
    // Ends before it has read all: the callback above hears why.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input);
  });
}
