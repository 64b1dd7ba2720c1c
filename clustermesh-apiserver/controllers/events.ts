/**
 * Events on objects, for people: `kubectl describe` shows them. They are told as well as may be and never wait for: what cannot
 * be written is dropped and counted.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import {
  apiVersionOf,
  type KubernetesResource,
  RESOURCES,
  resourcePath,
} from '../kubernetes/resource.ts';
import { FIELD_MANAGER, type KubernetesObject, recordOf } from './kubernetes-object.ts';
import { microTime } from './lease-record.ts';
import { createRateLimit, type RateLimit } from './rate-limit.ts';
import { createWorkQueue } from './work-queue.ts';

const EVENTS = RESOURCES.events;
/** Events that are remembered, so that a repetition is counted. */
const MOST_KNOWN = 4096;
/** New Events about one object: some at once, then one each two minutes. */
const OBJECT_BURST = 10;
const OBJECT_PER_SECOND = 1 / 120;
/** Repetitions are written this often at most. */
const REPEAT_MS = 60_000;
const MOST_ATTEMPTS = 5;
/** Kubernetes' limit of `note`, and of `reason` and `action`. */
const NOTE_BYTES = 1024;
const WORD_LENGTH = 128;

/** The object that an Event is about. */
export interface EventTarget {
  readonly apiVersion: string;
  readonly kind: string;
  /** Empty for objects outside namespaces: their Events are in `default`. */
  readonly namespace: string;
  readonly name: string;
  /** Empty where it is not known. */
  readonly uid: string;
}

/** Something to tell about an object. */
export interface ObjectNote {
  readonly about: EventTarget;
  readonly type: 'Normal' | 'Warning';
  /** Why, in one CamelCase word: `UnknownAnnotationValue`. */
  readonly reason: string;
  /** What was done or not done, in one CamelCase word: `SyncEndpointSlices`. */
  readonly action: string;
  /** For people; at most 1,024 bytes are kept. */
  readonly note: string;
}

/** Counts since the process began. */
export interface EventStatus {
  readonly waiting: number;
  readonly written: number;
  /** Repetitions that were counted into an Event that there was. */
  readonly repeated: number;
  /** Dropped for a rate, a full queue or an API server that refused them. */
  readonly dropped: number;
  /** Why the last one could not be written; undefined: it could. */
  readonly lastError: string | undefined;
}

/** Writes Events. */
export interface EventRecorder {
  /** Returns at once and never throws. The same note about the same object is counted, not written anew. */
  record(note: ObjectNote): void;
  /** Writes what was recorded until `signal` aborts; what is recorded while nothing runs waits, as far as there is room. */
  run(signal: AbortSignal): Promise<void>;
  readonly status: EventStatus;
}

/** An object as the target of an Event. */
export function eventTargetOf(resource: KubernetesResource, object: KubernetesObject): EventTarget {
  const { namespace, name, uid } = object;
  return { apiVersion: apiVersionOf(resource), kind: resource.kind, namespace, name, uid };
}

/** An Event that was recorded, and what is still to be written of it. */
interface KnownEvent {
  readonly note: ObjectNote;
  readonly name: string;
  /** Milliseconds since 1970. */
  readonly firstAt: number;
  lastAt: number;
  /** Times it was recorded, and how many of them the API server knows of. */
  count: number;
  written: number;
  attempts: number;
}

/**
 * Makes a recorder. The name of an Event follows from what it says, so that replicas, and this one after a restart, count into
 * the same.
 */
export function createEventRecorder(options: {
  readonly api: KubernetesApi;
  /** Who tells it: the name of this replica. */
  readonly instance: string;
  readonly clock: Clock;
  readonly logger: Logger;
}): EventRecorder {
  const { api, clock, logger } = options;
  const known = new Map<string, KnownEvent>();
  const limits = new Map<string, RateLimit>();
  const queue = createWorkQueue({
    clock,
    maxKeys: MOST_KNOWN,
    perSecond: 10,
    burst: 50,
    retryMinMs: 1000,
  });
  const counts = { written: 0, repeated: 0, dropped: 0 };
  let lastError: string | undefined;

  const mayTell = (about: EventTarget): boolean => {
    const name = `${about.kind}/${about.namespace}/${about.name}`;
    const limit =
      limits.get(name) ??
      createRateLimit({ perSecond: OBJECT_PER_SECOND, burst: OBJECT_BURST, clock });
    keepLatest(limits, name, limit);
    return limit.tryTake() === 0;
  };
  const write = async (event: KnownEvent, signal: AbortSignal): Promise<void> => {
    const { count, lastAt } = event;
    if (count === event.written) return;
    const place = { namespace: namespaceOf(event.note.about), name: event.name };
    const isNew = event.written === 0 && (await create(api, event, { ...options, signal }));
    const added = isNew ? count - 1 : count - event.written;
    const isCounted = added === 0 || (await addToSeries(api, { place, added, lastAt, signal }));
    // Events end after an hour: then it is told anew.
    if (!isCounted) await create(api, event, { ...options, signal });
    event.written = count;
  };
  const work = async (key: string, signal: AbortSignal): Promise<void> => {
    const event = known.get(key);
    if (event === undefined) return;
    try {
      await write(event, signal);
      counts.written += 1;
      lastError = undefined;
      event.attempts = 0;
      queue.forget(key);
    } catch (error) {
      if (signal.aborted) return;
      const message = error instanceof Error ? error.message : String(error);
      if (message !== lastError) logger.debug({ err: error }, 'event could not be written');
      lastError = message;
      event.attempts += 1;
      const isPassing = error instanceof KubernetesError && error.retryable;
      if (!isPassing) event.attempts = MOST_ATTEMPTS;
      if (event.attempts < MOST_ATTEMPTS) queue.retry(key);
      else {
        known.delete(key);
        counts.dropped += 1;
      }
    }
  };

  return {
    record(note) {
      const key = fingerprint(note);
      const now = clock.now();
      const event = known.get(key);
      if (event !== undefined) {
        event.count += 1;
        event.lastAt = now;
        counts.repeated += 1;
        queue.addAfter(key, REPEAT_MS);
        return;
      }
      if (!mayTell(note.about) || !queue.add(key)) {
        counts.dropped += 1;
        return;
      }
      const name = `${note.about.name.slice(0, 200)}.${key}`;
      const first = { firstAt: now, lastAt: now, count: 1, written: 0, attempts: 0 };
      keepLatest(known, key, { note, name, ...first });
    },
    async run(signal) {
      while (!signal.aborted) {
        let key: string;
        try {
          ({ key } = await queue.take(signal));
        } catch (error) {
          if (signal.aborted) return;
          throw error;
        }
        await work(key, signal);
        queue.done(key);
      }
    },
    get status() {
      return { waiting: queue.ready + queue.delayed, ...counts, lastError };
    },
  };
}

/** Returns false when there is one already: another replica has told of it, or this one before a restart. */
async function create(
  api: KubernetesApi,
  { note, name, firstAt }: KnownEvent,
  { instance, signal }: { instance: string; signal: AbortSignal },
): Promise<boolean> {
  const { about } = note;
  const namespace = namespaceOf(about);
  try {
    await api.request({
      method: 'POST',
      path: resourcePath(EVENTS, { namespace }),
      body: {
        apiVersion: apiVersionOf(EVENTS),
        kind: EVENTS.kind,
        metadata: { name, namespace },
        eventTime: microTime(firstAt),
        reportingController: FIELD_MANAGER,
        reportingInstance: instance.slice(0, WORD_LENGTH),
        type: note.type,
        reason: note.reason.slice(0, WORD_LENGTH),
        action: note.action.slice(0, WORD_LENGTH),
        note: cut(note.note),
        regarding: {
          apiVersion: about.apiVersion,
          kind: about.kind,
          name: about.name,
          ...(about.namespace === '' ? {} : { namespace: about.namespace }),
          ...(about.uid === '' ? {} : { uid: about.uid }),
        },
      },
      signal,
    });
    return true;
  } catch (error) {
    if (error instanceof KubernetesError && error.reason === 'AlreadyExists') return false;
    throw error;
  }
}

/** Counts repetitions into an Event. Returns false when it is not there any more. */
async function addToSeries(
  api: KubernetesApi,
  options: {
    place: { namespace: string; name: string };
    added: number;
    lastAt: number;
    signal: AbortSignal;
  },
): Promise<boolean> {
  const { place, added, lastAt, signal } = options;
  const path = resourcePath(EVENTS, place);
  try {
    const { body } = await api.request({ method: 'GET', path, signal });
    const before = recordOf(recordOf(body)?.series)?.count;
    const count = (typeof before === 'number' ? before : 1) + added;
    await api.request({
      method: 'PATCH',
      path,
      contentType: 'application/merge-patch+json',
      body: { series: { count, lastObservedTime: microTime(lastAt) } },
      signal,
    });
    return true;
  } catch (error) {
    if (error instanceof KubernetesError && error.code === 'not-found') return false;
    throw error;
  }
}

/** What lives in no namespace has its Events where `kubectl` looks for them. */
function namespaceOf({ namespace }: EventTarget): string {
  return namespace === '' ? 'default' : namespace;
}

function fingerprint({ about, type, reason, action, note }: ObjectNote): string {
  const { apiVersion, kind, namespace, name, uid } = about;
  const parts = [apiVersion, kind, namespace, name, uid, type, reason, action, note];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16);
}

/** Cuts a text to what an Event may hold, at the end of a character. */
function cut(note: string): string {
  const bytes = Buffer.from(note);
  if (bytes.length <= NOTE_BYTES) return note;
  return bytes
    .subarray(0, NOTE_BYTES - 4)
    .toString('utf8')
    .replace(/\uFFFD$/, '')
    .concat('…');
}

/** Puts an entry last, and lets go of the first ones when there are too many. */
function keepLatest<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  for (const oldest of map.keys()) {
    if (map.size <= MOST_KNOWN) return;
    map.delete(oldest);
  }
}
