/** A source, published: source, conversion and store in one piece. */
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { ObjectEvent } from '../sources/object-event.ts';
import { createPublisher, type Publisher, type PublisherOptions } from './publisher.ts';
import { untilAnswered } from './until-answered.ts';

/** Options of `publishSource`. */
export interface PublishSourceOptions extends PublisherOptions {
  /** Opens the source; it tells of each of `kinds` until `signal` aborts. */
  readonly open: (signal: AbortSignal) => AsyncIterable<readonly ObjectEvent[]>;
  /** Done before the source is opened: what else is to be published must be known before leftovers are swept. */
  readonly prepare?: (publisher: Publisher, signal: AbortSignal) => Promise<void>;
  readonly signal?: AbortSignal;
}

/** A source that is being published. Disposing ends that; keys stay. */
export interface PublishedSource extends AsyncDisposable {
  readonly publisher: Publisher;
  /** Resolves when it has ended; rejects on a fault of the program. */
  readonly ended: Promise<void>;
  /** Resolves when everything that the source told at first is in etcd; rejects when it ends before. */
  readonly ready: Promise<void>;
}

/** Begins to publish a source; it goes on until disposed of, or `signal` aborts. */
export function publishSource(options: PublishSourceOptions): PublishedSource {
  const { logger, clock = systemClock } = options;
  const stopping = new AbortController();
  const signal =
    options.signal === undefined
      ? stopping.signal
      : AbortSignal.any([options.signal, stopping.signal]);
  const publisher = createPublisher(options);
  async function* prepared(): AsyncGenerator<readonly ObjectEvent[]> {
    await untilAnswered(() => options.prepare?.(publisher, signal), { clock, logger, signal });
    yield* options.open(signal);
  }
  const ended = publisher.run(prepared(), signal);
  const endedEarly = ended.then(() => {
    throw signal.aborted ? signal.reason : new Error('the publisher ended before it was ready');
  });
  const ready = Promise.race([publisher.ready, endedEarly]);
  // Whoever does not ask for them need not handle them.
  for (const promise of [ended, endedEarly, ready]) promise.catch(() => undefined);
  return {
    publisher,
    ended,
    ready,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await ended;
    },
  };
}
