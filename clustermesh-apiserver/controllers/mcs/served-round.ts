/** Follows which version of the API is served, and its objects as long as it is. */
import { createBackoff } from '../../../mesh/runtime/backoff.ts';
import { createBell } from '../../../mesh/runtime/bell.ts';
import type { ControllerContext } from '../controller-part.ts';
import type { ServedApi } from './mcs-schema.ts';
import { createMcsViews, type McsViews } from './mcs-views.ts';
import { readServedApi } from './read-served-api.ts';

const MISSING_AGAIN_MS = 5_000;
const SERVED_AGAIN_MS = 60_000;

/** A time in which one version is served. */
export interface ServedRound {
  readonly views: McsViews;
  /** As it is now: newer definitions add fields. */
  readonly served: () => ServedApi;
  /** Aborts when another version is spoken. */
  readonly over: AbortSignal;
}

/** Follows the rounds. */
export interface ServedRounds {
  /** Follows until `signal` aborts; errors are waited out. To be called once. */
  follow(signal: AbortSignal): Promise<void>;
  /** The current round. */
  readonly current: ServedRound | undefined;
  /** Looks again now, since something was installed. */
  lookAgain(): void;
  /** Calls back when the fields of the version have changed, until the returned function is called. */
  onFields(callback: () => void): () => void;
  /** What is missing; empty: nothing. */
  readonly reason: string;
}

/** Makes one that has not looked yet. */
export function createServedRounds(context: ControllerContext): ServedRounds {
  const { api, clock, logger } = context;
  let current: (ServedRound & { readonly end: () => void }) | undefined;
  let served: ServedApi | undefined;
  let reason = 'which version of multicluster.x-k8s.io is served';
  let following: Promise<void> = Promise.resolve();
  const bell = createBell();
  const callbacks = new Set<() => void>();

  const begin = (first: ServedApi, signal: AbortSignal): void => {
    const ending = new AbortController();
    const over = AbortSignal.any([signal, ending.signal]);
    const views = createMcsViews(context, first.version);
    const round = { views, served: () => served ?? first, over, end: () => ending.abort(OVER) };
    current = round;
    logger.info({ version: first.version }, 'multi-cluster services are followed');
    const previous = following;
    following = previous.then(() =>
      untilAborted(over, Promise.all(Object.values(views).map((view) => view.follow(over)))),
    );
  };
  const look = async (signal: AbortSignal): Promise<number> => {
    const answer = await readServedApi(api, signal);
    if (answer.kind === 'missing') {
      if (reason !== answer.reason)
        logger.warn({ missing: answer.reason }, 'multi-cluster services wait');
      reason = answer.reason;
      return MISSING_AGAIN_MS;
    }
    reason = '';
    const isOther = served?.version !== answer.api.version;
    const hasOtherFields = served !== undefined && fieldsOf(served) !== fieldsOf(answer.api);
    served = answer.api;
    if (hasOtherFields && !isOther) for (const callback of callbacks) callback();
    if (isOther) {
      current?.end();
      begin(answer.api, signal);
    }
    return SERVED_AGAIN_MS;
  };

  return {
    async follow(signal) {
      const backoff = createBackoff({ minMs: 500, maxMs: MISSING_AGAIN_MS * 3 });
      while (!signal.aborted) {
        let waitMs: number;
        try {
          waitMs = await look(signal);
          backoff.reset();
        } catch (error) {
          if (signal.aborted) break;
          logger.warn({ err: error }, 'definitions cannot be read, will be retried');
          waitMs = backoff.next();
        }
        const end = (): void => bell.ring();
        signal.addEventListener('abort', end, { once: true });
        if (!signal.aborted) await bell.wait(waitMs, clock);
        signal.removeEventListener('abort', end);
        bell.clear();
      }
      await following;
    },
    get current() {
      return current;
    },
    lookAgain: () => bell.ring(),
    onFields(callback) {
      callbacks.add(callback);
      return () => void callbacks.delete(callback);
    },
    get reason() {
      return reason;
    },
  };
}

function fieldsOf({ importSpecFields, importStatusFields }: ServedApi): string {
  return [...importSpecFields, '/', ...importStatusFields].join();
}

const OVER = new Error('another version of the API is served');

/** A view's end by its signal is no failure. */
async function untilAborted(signal: AbortSignal, task: Promise<unknown>): Promise<void> {
  try {
    await task;
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
