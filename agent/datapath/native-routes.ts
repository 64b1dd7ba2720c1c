/** Native routing: whether the node's own routes lead to where other nodes' endpoints are. */
import { execFile } from 'node:child_process';
import { type IpAddress, ipFamily, parseIpAddress, splitPrefix } from '../../mesh/wire/ip.ts';
import { DatapathError } from './datapath-error.ts';
import type { IpcacheEntry } from './desired.ts';

/** An address of an endpoint behind another node. */
export interface RemotePlace {
  readonly address: IpAddress;
  readonly node: IpAddress;
  readonly clusterId: number;
}

/** Nodes that are asked for in one look; of more, others are taken the next time. */
const MOST_PLACES = 1024;
const MOST_LINES = 10;
const COMMAND_TIMEOUT_MS = 10_000;

/** One address behind each node, for each family: if there is a route to one of its endpoints there is to all. */
export function createPlaces(): {
  add(rows: readonly IpcacheEntry[]): void;
  places(): readonly RemotePlace[];
} {
  const byNode = new Map<string, RemotePlace>();
  return {
    add(rows) {
      for (const { prefix, tunnelEndpoint, clusterId } of rows) {
        if (tunnelEndpoint === undefined || byNode.size >= MOST_PLACES) continue;
        const { address } = splitPrefix(prefix);
        const key = `${tunnelEndpoint} ${ipFamily(address)}`;
        if (!byNode.has(key)) byNode.set(key, { address, node: tunnelEndpoint, clusterId });
      }
    },
    places: () => [...byNode.values()],
  };
}

/** Places to which the node has no route. Throws DatapathError `device-failed` when that cannot be found out. */
export async function findUnrouted(
  places: readonly RemotePlace[],
  signal?: AbortSignal,
): Promise<readonly RemotePlace[]> {
  if (places.length === 0) return [];
  const routed = routedAddresses(await askRoutes(places, signal));
  return places.filter(({ address }) => !routed.has(address));
}

/** Sentences for people about places without a route, what to do with them. */
export function describeUnrouted(unrouted: readonly RemotePlace[]): string[] {
  const lines = unrouted
    .slice(0, MOST_LINES)
    .map(
      ({ address, node, clusterId }) =>
        `native routing: this node has no route to ${address}, an endpoint behind node ${node} of cluster id ${clusterId}, so connections from here to endpoints there fail: add routes to that node's pod networks, or start agents with --routing-mode tunnel`,
    );
  const others = unrouted.length - lines.length;
  if (others > 0) lines.push(`native routing: the same for ${others} more nodes`);
  return lines;
}

/** Each route that there is, on a line of its own; what there is none to goes to standard error. */
function askRoutes(
  places: readonly RemotePlace[],
  signal: AbortSignal | undefined,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const args = ['-force', '-oneline', '-batch', '-'];
    const options = { timeout: COMMAND_TIMEOUT_MS, ...(signal ? { signal } : {}) };
    const child = execFile('ip', args, options, (error, stdout) => {
      // 1: the routes to some of them are missing.
      if (error === null || error.code === 1) resolve(stdout);
      else if (signal?.aborted === true) reject(signal.reason);
      else {
        reject(
          new DatapathError('device-failed', `cannot look up routes: ${error.message}`, {
            retryable: true,
            cause: error,
          }),
        );
      }
    });
    // Ends before it has read all: the callback above hears why.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(places.map(({ address }) => `route get ${address}\n`).join(''));
  });
}

/** Addresses that lines of `ip route get` begin with, behind the kind of the route where that is named. */
function routedAddresses(text: string): ReadonlySet<string> {
  const found = new Set<string>();
  for (const line of text.split('\n')) {
    const words = line.trim().split(/\s+/, 2);
    const word = words.find((candidate) => /^[0-9a-f]*[.:]/.test(candidate));
    if (word !== undefined && !/^(unreachable|blackhole|prohibit)$/.test(words[0] ?? '')) {
      found.add(parseIpAddress(word));
    }
  }
  return found;
}
