/** Keeps the node's routes to endpoints elsewhere as clusters say they are, and mends them. */
import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { HostRanges } from '../merge/host-ranges.ts';
import { createNetworkSet } from '../merge/network-set.ts';
import type { IpcacheEntry } from './desired.ts';
import type { HostRoutes } from './host-routes.ts';

/** Changes are gathered for this long: nodes come in crowds, and each look reads all routes. */
const COALESCE_MS = 100;
/** How often the kernel is looked at, in milliseconds: the device may have been made anew. */
const LOOK_EACH_MS = 10_000;
/** Of the time, at most this part is spent on looks. */
const MOST_OF_TIME = 1 / 10;
/** Rows that are looked through before others have their turn. */
const ROWS_AT_ONCE = 4096;

/** Rows of the ipcache. */
export interface IpcacheRows {
  desired(): Iterable<IpcacheEntry>;
  /** What a previous process left and nobody has said again yet. */
  adopted(): Iterable<IpcacheEntry>;
}

/** Hears what clusters say, and acts on it while it runs. */
export interface HostRouteKeeper {
  setNode(cluster: Pick<ClusterRef, 'name' | 'own'>, name: string, node: Node | undefined): void;
  setRow(prefix: IpPrefix, row: IpcacheEntry | undefined): void;
  run(rows: IpcacheRows, signal: AbortSignal): Promise<void>;
  /** What does not work, a sentence each with what to do. */
  problems(): readonly string[];
}

/** Makes a keeper that does nothing until it runs. Where there is no tunnel device, none is needed. */
export function createHostRouteKeeper(options: {
  readonly ranges: HostRanges;
  readonly routes: HostRoutes;
  readonly clock: Clock;
  readonly logger: Logger;
}): HostRouteKeeper {
  const { ranges, routes, clock, logger } = options;
  const bell = createBell();
  let problems: readonly string[] = [];

  const tellAgain = async (rows: Iterable<IpcacheEntry>, signal: AbortSignal): Promise<void> => {
    let count = 0;
    for (const row of rows) {
      ranges.setRow(row);
      count += 1;
      if (count % ROWS_AT_ONCE === 0) await clock.sleep(0, signal);
    }
  };

  const look = async (rows: IpcacheRows, signal: AbortSignal): Promise<void> => {
    let wanted = ranges.wanted();
    if (ranges.takeForgotten()) {
      await tellAgain(rows.desired(), signal);
      wanted = ranges.wanted();
    }
    const result = await routes.sync({
      wanted: wanted.prefixes,
      // What an earlier process has routed stays as long as something that it knew lives there.
      keep: (unwanted) => inhabited(unwanted, rows.adopted()),
      signal,
    });
    const { added, removed, kept } = result;
    if (added + removed > 0) {
      logger.info({ added, removed, kept }, 'routes of the node to other clusters changed');
    }
    problems = [...wanted.problems, ...result.problems];
  };

  return {
    setNode(cluster, name, node) {
      if (ranges.setNode(cluster, name, node)) bell.ring();
    },
    setRow(prefix, row) {
      if (row === undefined ? ranges.removeRow(prefix) : ranges.setRow(row)) bell.ring();
    },
    problems: () => problems,
    async run(rows, signal) {
      signal.addEventListener('abort', () => bell.ring(), { once: true });
      let pause = COALESCE_MS;
      while (!signal.aborted) {
        const began = clock.monotonic();
        bell.clear();
        try {
          await look(rows, signal);
        } catch (error) {
          if (signal.aborted) return;
          const text = `routes to other clusters: ${error instanceof Error ? error.message : String(error)}`;
          // A failure is told once until something else happens.
          if (problems[0] !== text) {
            logger.warn({ err: error }, 'routes to other clusters cannot be kept');
          }
          problems = [text];
        }
        pause = Math.max(COALESCE_MS, (clock.monotonic() - began) / MOST_OF_TIME);
        await bell.wait(Math.max(LOOK_EACH_MS, pause), clock);
        await clock.sleep(pause, signal).catch(() => undefined);
      }
    },
  };
}

/** Those of the networks in which some endpoint behind another node lives. */
function inhabited(
  networks: readonly IpPrefix[],
  rows: Iterable<IpcacheEntry>,
): ReadonlySet<IpPrefix> {
  const set = createNetworkSet(networks);
  const found = new Set<IpPrefix>();
  if (networks.length === 0) return found;
  for (const { prefix, tunnelEndpoint } of rows) {
    if (tunnelEndpoint === undefined) continue;
    for (const network of set.covering(prefix)) found.add(network);
  }
  return found;
}
