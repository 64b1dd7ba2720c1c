/** Who listens to the events of this node, and the reading of them while somebody does. */
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { EVENT_KINDS, TRACE_LEVELS } from '../../mesh/wire/maps.ts';
import type { DatapathEvents } from '../datapath/desired.ts';
import {
  describeRecord,
  formatTime,
  type LossPlace,
  type MonitorEvent,
  type TrafficEvent,
} from './event.ts';
import type { EventFilter } from './filter.ts';
import { createHistory } from './history.ts';
import { createLossMeter } from './loss-meter.ts';
import type { MonitorNames } from './names.ts';
import { decodeRecord, splitRecords } from './record.ts';

export type TraceLevel = (typeof TRACE_LEVELS)[number];
type EventKind = (typeof EVENT_KINDS)[number];

/** Who wants events. Neither callback may throw. */
export interface MonitorListener {
  readonly filter: EventFilter;
  /** `line` is the event as a line of JSON, made when it is first asked for. */
  readonly onEvent: (event: MonitorEvent, line: () => string) => void;
}

/** Counts since the process began. */
export interface MonitorStatistics {
  readonly listeners: number;
  readonly read: Readonly<Record<EventKind, number>>;
  /** Records that nobody could decode. */
  readonly undecodable: number;
  /** Never written, by place and kind; `listener`: events that a listener was too slow for, of all kinds. */
  readonly lost: readonly {
    readonly where: LossPlace;
    readonly of: EventKind | 'any';
    readonly count: number;
  }[];
}

/** The events of a node. */
export interface Monitor {
  /**
   * Adds a listener at once; resolves when events are read. Disposing removes it; when the last one has gone, nothing is
   * written any more. Throws DatapathError.
   */
  listen(listener: MonitorListener): Promise<AsyncDisposable>;
  /** Remembered events that fit, oldest first. */
  recall(filter: EventFilter, last: number): TrafficEvent[];
  /** Which packets that went on are told, while somebody listens. Not kept over restarts. */
  setTraceLevel(level: TraceLevel): void;
  readonly traceLevel: TraceLevel;
  /** How many events are remembered at most. */
  readonly historySize: number;
  /** A listener has lost events, which it tells by itself. */
  countLost(count: number): void;
  statistics(): MonitorStatistics;
  /** Tells listeners what was lost, once a second, and reads again after a failure. Ends with the signal. */
  run(signal: AbortSignal): Promise<void>;
}

/** What somebody who runs an agent decides. */
export interface MonitorSettings {
  /** Which packets that went on are told, at the start. */
  readonly traceLevel: TraceLevel;
  /** Events that are remembered, also while nobody listens; 0: none, and nothing is read then. */
  readonly historySize: number;
  /** Events that wait for one slow listener. */
  readonly queueSize: number;
}

export const DEFAULT_MONITOR_SETTINGS: MonitorSettings = {
  traceLevel: 'none',
  historySize: 0,
  queueSize: 4096,
};

/** How often losses are told, and a failed reader is started again. */
const TICK_MS = 1000;

/** Makes a monitor that reads nothing yet. `events` undefined: there are no programs, and listeners hear nothing. */
export function createMonitor(
  options: Omit<MonitorSettings, 'queueSize'> & {
    readonly events: DatapathEvents | undefined;
    readonly names: MonitorNames;
    readonly clock: Clock;
    readonly logger: Logger;
  },
): Monitor {
  const { events, names, clock, logger } = options;
  const history = createHistory(options.historySize);
  const losses = createLossMeter(events);
  const listeners = new Set<MonitorListener>();
  const read: Record<EventKind, number> = { drop: 0, trace: 0, service: 0, 'policy-audit': 0 };
  const bell = createBell();
  let traceLevel = options.traceLevel;
  let undecodable = 0;
  let isEnded = false;
  let lostByListeners = 0;
  let reader: AsyncDisposable | undefined;
  /** Starting and ending the reader, one after the other. */
  let turn: Promise<void> = Promise.resolve();

  const isWanted = (): boolean => !isEnded && (listeners.size > 0 || history.size > 0);

  const tell = (event: MonitorEvent, to: Iterable<MonitorListener>): void => {
    let text: string | undefined;
    const line = (): string => {
      text ??= JSON.stringify(event);
      return text;
    };
    for (const listener of to) listener.onEvent(event, line);
  };

  const onRecord = (bytes: Uint8Array, offsetUs: number): void => {
    const record = decodeRecord(bytes);
    read[record.kind] += 1;
    const time = offsetUs + Number(record.timestampNs / 1000n);
    history.add(bytes, time);
    if (listeners.size === 0) return;
    const event = describeRecord(record, { time, names });
    tell(
      event,
      [...listeners].filter(({ filter }) => filter(event)),
    );
  };

  const onRecords = (batch: Uint8Array): void => {
    // What to add to the programs' clock to get the time of day; anew for each batch, since that one may jump.
    const offsetUs = clock.now() * 1000 - Number(process.hrtime.bigint() / 1000n);
    try {
      for (const bytes of splitRecords(batch)) {
        try {
          onRecord(bytes, offsetUs);
        } catch (error) {
          undecodable += 1;
          // Once: a thousand such events a second would fill the log with one sentence.
          if (undecodable === 1) logger.warn({ err: error }, 'an event cannot be read');
        }
      }
    } catch (error) {
      undecodable += 1;
      logger.warn({ err: error }, 'a batch of events cannot be read');
    }
  };

  const applyTraceLevel = (): void => {
    events?.setTraceLevel(listeners.size > 0 && !isEnded ? traceLevel : 'none');
  };

  /** Makes reading agree with what is wanted. */
  const adjust = (): Promise<void> => {
    const done = turn.then(async () => {
      if (isEnded && reader === undefined) return;
      applyTraceLevel();
      if (isWanted() && reader === undefined && events !== undefined) {
        losses.reset();
        reader = await events.read({
          onRecords,
          onFailure(error) {
            logger.warn({ err: error }, 'events are not read; it is tried again');
            const failed = reader;
            reader = undefined;
            turn = turn.then(async () => failed?.[Symbol.asyncDispose]());
          },
        });
        bell.ring();
      } else if (!isWanted() && reader !== undefined) {
        const ending = reader;
        reader = undefined;
        await ending[Symbol.asyncDispose]();
      }
    });
    turn = done.catch(() => undefined);
    return done;
  };

  const tellLosses = (): void => {
    const now = { time: formatTime(clock.now() * 1000), node: names.node };
    for (const { where, of, count } of losses.news()) {
      tell({ kind: 'lost', ...now, where, of, count }, listeners);
    }
  };

  return {
    async listen(listener) {
      listeners.add(listener);
      const remove = async (): Promise<void> => {
        if (listeners.delete(listener)) await adjust();
      };
      try {
        await adjust();
      } catch (error) {
        listeners.delete(listener);
        throw error;
      }
      return { [Symbol.asyncDispose]: remove };
    },
    recall(filter, last) {
      const fitting: TrafficEvent[] = [];
      for (const { bytes, time } of history.newestFirst()) {
        if (fitting.length >= last) break;
        const event = describeRecord(decodeRecord(bytes), { time, names });
        if (filter(event)) fitting.push(event);
      }
      return fitting.reverse();
    },
    setTraceLevel(level) {
      traceLevel = level;
      if (!isEnded) applyTraceLevel();
    },
    get traceLevel() {
      return traceLevel;
    },
    historySize: history.size,
    countLost(count) {
      lostByListeners += count;
    },
    statistics: () => ({
      listeners: listeners.size,
      read: { ...read },
      undecodable,
      lost: [...losses.totals(), { where: 'listener', of: 'any', count: lostByListeners }],
    }),
    async run(signal) {
      signal.addEventListener('abort', () => bell.ring(), { once: true });
      while (!signal.aborted) {
        await adjust().catch((error: unknown) => {
          logger.warn({ err: error }, 'events cannot be read; it is tried again');
        });
        if (reader === undefined && !isWanted()) {
          await bell.wait(60_000, clock);
          bell.clear();
        } else {
          await clock.sleep(TICK_MS, signal).catch(() => undefined);
          tellLosses();
        }
      }
      isEnded = true;
      await adjust();
    },
  };
}
