/**
 * The node's routes to endpoints elsewhere, which lead to the tunnel device: by them the node's own programs reach pods of
 * other clusters. They stand in the main table with a protocol number of their own, behind every route to the same network
 * that somebody else has made, and go with the device.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { type IpAddress, type IpPrefix, ipFamily, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { createNetworkSet, type NetworkSet } from '../merge/network-set.ts';
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
    /** Is asked only where something is unwanted. */
    readonly keep: (
      unwanted: readonly IpPrefix[],
    ) => ReadonlySet<IpPrefix> | Promise<ReadonlySet<IpPrefix>>;
    /**
     * Takes the routes to be as the last call left them, if that went well, and does not read them again: with many nodes
     * that is most of the work. Default: they are read.
     */
    readonly remembers?: boolean;
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

/** Routes of the device, each with its source address, and the networks that the node is part of. */
interface Standing {
  readonly routes: Map<IpPrefix, string | undefined>;
  readonly own: NetworkSet;
}

/** Routes of a device that is there, for nodes with these addresses. */
export function createHostRoutes(options: {
  readonly device: string;
  readonly nodeIps: readonly IpAddress[];
}): HostRoutes {
  const { device, nodeIps } = options;
  // Of several of a family the first is the one.
  const source = new Map([...nodeIps].reverse().map((address) => [ipFamily(address), address]));
  const list = createRouteList(options);
  let last: Standing | undefined;

  return {
    async sync({ wanted, keep, remembers = false, signal }) {
      const known = remembers ? last : undefined;
      // Until this call has gone well, nothing is known.
      last = undefined;
      const standing = known ?? {
        routes: await list.read(signal),
        own: createNetworkSet(await ownNetworks(device, signal)),
      };
      const { routes } = standing;
      const problems: string[] = [];
      const allowed = leaveOwnNetworks(wanted, { own: standing.own, problems });
      const made = new Map<IpPrefix, IpAddress>();
      for (const prefix of allowed) {
        const from = source.get(ipFamily(prefix));
        if (from !== undefined && routes.get(prefix) !== from) made.set(prefix, from);
      }
      const refused = new Set(
        allowed.size === wanted.length ? [] : wanted.filter((prefix) => !allowed.has(prefix)),
      );
      const others = [...routes.keys()].filter((prefix) => !allowed.has(prefix));
      const unwanted = others.filter((prefix) => !refused.has(prefix));
      const kept: ReadonlySet<IpPrefix> = unwanted.length === 0 ? new Set() : await keep(unwanted);
      const gone = others.filter((prefix) => !kept.has(prefix));
      const commands = [
        ...[...made].map(
          ([prefix, from]) => `route replace ${prefix} ${routeOf(device)} src ${from}`,
        ),
        ...gone.map((prefix) => `route delete ${prefix} ${routeOf(device)}`),
      ];
      if (commands.length > 0) list.forget();
      const failures = commands.length === 0 ? [] : await runBatch(commands, signal);
      problems.push(
        ...failures.map((text) => `a route of ${device} cannot be made or removed: ${text}`),
      );
      if (failures.length === 0) {
        for (const [prefix, from] of made) routes.set(prefix, from);
        for (const prefix of gone) routes.delete(prefix);
        last = standing;
      }
      return {
        added: made.size,
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
function leaveOwnNetworks(
  wanted: readonly IpPrefix[],
  { own, problems }: { readonly own: NetworkSet; readonly problems: string[] },
): ReadonlySet<IpPrefix> {
  const allowed = new Set<IpPrefix>();
  for (const prefix of wanted) {
    if (!own.covers(prefix)) allowed.add(prefix);
    else {
      const [network] = own.covering(prefix);
      problems.push(
        `programs of this node itself do not reach ${prefix} through the tunnel: it lies in ${network}, a network that this node is part of; renumber one of the two`,
      );
    }
  }
  return allowed;
}

/** Reads our routes of both families, each with its source address. */
function createRouteList({
  device,
  nodeIps,
}: {
  readonly device: string;
  readonly nodeIps: readonly IpAddress[];
}): {
  read(signal: AbortSignal | undefined): Promise<Map<IpPrefix, string | undefined>>;
  /** They are being changed: what was read last is not what will be read next. */
  forget(): void;
} {
  /** From time to time the same ten thousands are read again: that they are the same is seen without taking them apart. */
  let last:
    | { readonly digest: string; readonly routes: Map<IpPrefix, string | undefined> }
    | undefined;
  return {
    async read(signal) {
      const texts: string[] = [];
      for (const family of new Set(nodeIps.map(ipFamily))) {
        const selector = ['dev', device, 'proto', String(ROUTE_PROTOCOL)];
        const { text, failure } = await ip([`-${family}`, '-json', 'route', 'show', ...selector], {
          signal,
        });
        if (failure !== undefined) throw failed(`list routes of ${device}`, failure);
        texts.push(text || '[]');
      }
      const hash = createHash('sha256');
      for (const text of texts) hash.update(text);
      const digest = hash.digest('hex');
      if (last?.digest === digest) return last.routes;
      const routes = new Map<IpPrefix, string | undefined>();
      for (const text of texts) {
        for (const { dst, prefsrc } of z.array(routeSchema).parse(JSON.parse(text))) {
          routes.set(parseIpPrefix(dst), prefsrc);
        }
      }
      last = { digest, routes };
      return routes;
    },
    forget() {
      last = undefined;
    },
  };
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
