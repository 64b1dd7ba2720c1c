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

/** Changes are gathered for this long: nodes come in crowds, and each look goes through all routes. */
const COALESCE_MS = 100;
/** While changes go on and on, as during a first sync, they are gathered twice as long each time, at most this long. */
const MOST_COALESCE_MS = 2000;
/** How often the kernel is read, in milliseconds: the device may have been made anew. */
const READ_EACH_MS = 10_000;
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
  /** Whether something was said that the routes do not follow yet. What cannot be made is a problem, and is not waited for. */
  isBehind(): boolean;
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
  let isBehind = true;
  let isLooking = false;
  const heard = (): void => {
    isBehind = true;
    bell.ring();
  };

  const inTurns = async (
    rows: Iterable<IpcacheEntry>,
    { each, signal }: { readonly each: (row: IpcacheEntry) => boolean; signal: AbortSignal },
  ): Promise<void> => {
    let count = 0;
    for (const row of rows) {
      if (!each(row)) return;
      count += 1;
      if (count % ROWS_AT_ONCE === 0) await clock.sleep(0, signal);
    }
  };

  /** Those of the networks in which some endpoint behind another node lives. */
  const inhabited = async (
    networks: readonly IpPrefix[],
    { rows, signal }: { readonly rows: Iterable<IpcacheEntry>; readonly signal: AbortSignal },
  ): Promise<Set<IpPrefix>> => {
    const empty = createNetworkSet(networks);
    const found = new Set<IpPrefix>();
    const each = ({ prefix, tunnelEndpoint }: IpcacheEntry): boolean => {
      if (tunnelEndpoint === undefined || !empty.covers(prefix)) return true;
      for (const network of empty.covering(prefix)) {
        found.add(network);
        empty.delete(network);
      }
      return found.size < networks.length;
    };
    await inTurns(rows, { each, signal });
    return found;
  };

  /**
   * What an earlier process has routed stays as long as something that it knew lives there. Whether that is so takes all of
   * those rows to find out: until it is time for that, everything stays while there is any of them.
   */
  const staying = async (
    unwanted: readonly IpPrefix[],
    options: { readonly rows: IpcacheRows; readonly isThorough: boolean; signal: AbortSignal },
  ): Promise<ReadonlySet<IpPrefix>> => {
    const { rows, isThorough, signal } = options;
    const [any] = rows.adopted();
    if (any !== undefined && !isThorough) return new Set(unwanted);
    const found = await inhabited(unwanted, { rows: rows.adopted(), signal });
    // Whoever lives there may have been said again while that was found out.
    const wanted = new Set(ranges.wanted().prefixes);
    for (const prefix of unwanted) if (wanted.has(prefix)) found.add(prefix);
    return found;
  };

  const look = async (
    rows: IpcacheRows,
    { reads, isThorough, signal }: { reads: boolean; isThorough: boolean; signal: AbortSignal },
  ): Promise<void> => {
    let wanted = ranges.wanted();
    if (ranges.takeForgotten()) {
      const each = (row: IpcacheEntry): boolean => {
        ranges.setRow(row);
        return true;
      };
      await inTurns(rows.desired(), { each, signal });
      wanted = ranges.wanted();
    }
    const result = await routes.sync({
      wanted: wanted.prefixes,
      keep: (unwanted) => staying(unwanted, { rows, isThorough, signal }),
      remembers: !reads,
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
      if (ranges.setNode(cluster, name, node)) heard();
    },
    setRow(prefix, row) {
      if (row === undefined ? ranges.removeRow(prefix) : ranges.setRow(row)) heard();
    },
    problems: () => problems,
    isBehind: () => isBehind || isLooking,
    async run(rows, signal) {
      signal.addEventListener('abort', () => bell.ring(), { once: true });
      let pause = COALESCE_MS;
      let readAt: number | undefined;
      while (!signal.aborted) {
        const began = clock.monotonic();
        const reads = readAt === undefined || began - readAt >= READ_EACH_MS;
        bell.clear();
        isBehind = false;
        isLooking = true;
        try {
          // At the first one nobody has had time to say again what there was.
          await look(rows, { reads, isThorough: reads && readAt !== undefined, signal });
        } catch (error) {
          if (signal.aborted) return;
          const text = `routes to other clusters: ${error instanceof Error ? error.message : String(error)}`;
          // A failure is told once until something else happens.
          if (problems[0] !== text) {
            logger.warn({ err: error }, 'routes to other clusters cannot be kept');
          }
          problems = [text];
        }
        isLooking = false;
        if (reads) readAt = began;
        const ended = clock.monotonic();
        await bell.wait(READ_EACH_MS, clock);
        const isBusy = clock.monotonic() - ended < pause;
        pause = isBusy ? Math.min(2 * pause, MOST_COALESCE_MS) : COALESCE_MS;
        await clock
          .sleep(Math.max(pause, (ended - began) / MOST_OF_TIME), signal)
          .catch(() => undefined);
      }
    },
  };
}
