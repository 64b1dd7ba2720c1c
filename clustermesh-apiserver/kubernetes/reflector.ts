/** A kind of objects kept in step with the API server: list, watch, and again, whatever happens. */
import { type Backoff, createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { FreshLook } from '../../mesh/runtime/fresh-look.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { KubernetesApi, WatchEnd, WatchEvent } from './api.ts';
import { type DefinitionState, readDefinition } from './definition-guard.ts';
import { DefinitionGone } from './explain-failure.ts';
import { createHeldObjects, type HeldObjects, isOlder, versionOf } from './held-objects.ts';
import { KubernetesError } from './kubernetes-error.ts';
import { createReport, type ReflectorStatus, type Report } from './reflector-status.ts';
import type { KubernetesResource } from './resource.ts';
import { linkSignals } from './transport.ts';

export type { ReflectorStatus } from './reflector-status.ts';

/** A change. `synced` comes after the first complete list, and again after each later one. */
export type ReflectorEvent<T> =
  | { readonly kind: 'upsert'; readonly object: T }
  | { readonly kind: 'delete'; readonly object: T }
  | { readonly kind: 'synced' };

/** Options of `reflect`. */
export interface ReflectOptions<T> {
  /** Cuts an object down to what is used, and throws when it cannot be. */
  readonly parse: (object: unknown) => T;
  /** Which objects matter. One that no longer does is told as deleted. Default: all. */
  readonly keep?: ((object: T) => boolean) | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  /** Told at every change of the status. */
  readonly onStatus?: ((status: ReflectorStatus) => void) | undefined;
  readonly namespace?: string | undefined;
  readonly fieldSelector?: string | undefined;
  readonly labelSelector?: string | undefined;
  /** Items a page. Default 500. */
  readonly limit?: number | undefined;
  /** First and longest wait between attempts. Default 250 and 15,000. */
  readonly backoffMs?: { readonly min: number; readonly max: number } | undefined;
  /** See `WatchOptions`. */
  readonly silenceMs?: number | undefined;
  /** By which somebody asks to be told everything that the API server knows by now. */
  readonly freshLook?: FreshLook | undefined;
  /** Other versions to try, one after the other, when the API server does not serve the resource's own. */
  readonly otherVersions?: readonly string[] | undefined;
  /** Whether a kind that the API server has never heard of is told as synced, with no objects. Default: it is not. */
  readonly mayBeAbsent?: boolean | undefined;
  /** ClusterRole that allows the reading, for messages. */
  readonly role?: string | undefined;
  /**
   * For custom kinds: how long objects are kept that went with their CustomResourceDefinition, after a new one stands.
   * Default: they are deleted with it. Needs the permission to get that definition.
   */
  readonly keepWithoutDefinitionMs?: number | undefined;
}

/** Lists that expire while they are read, in a row, before that is waited out like any error. */
const MAX_EXPIRED_LISTS = 3;
/** Deletes of custom kinds are gathered this long, lest each asks for the definition by itself. */
const GATHER_DELETES_MS = 40;
/** More than this is not waited for, whatever the server says: it may be a proxy that knows better than it should. */
const MOST_RETRY_AFTER_MS = 60_000;

/**
 * Yields what a kind holds and every change of it until `signal` aborts. Deletes come from watches and complete lists alone;
 * a new list yields only what differs. Errors are waited out and told by `onStatus`; none ends it.
 */
export async function* reflect<T>(
  api: KubernetesApi,
  resource: KubernetesResource,
  options: ReflectOptions<T>,
): AsyncGenerator<readonly ReflectorEvent<T>[], void> {
  const { clock, signal, backoffMs } = options;
  const held = createHeldObjects(options);
  const versions = [resource.version, ...(options.otherVersions ?? [])];
  const run: Run<T> = {
    api,
    resource,
    options,
    held,
    report: createReport(held, resource, options),
    backoff: createBackoff({ minMs: backoffMs?.min ?? 250, maxMs: backoffMs?.max ?? 15_000 }),
    version: '',
    trustVersions: true,
    definitionUid: undefined,
    doing: 'list',
    lookDone: [],
    isAsked: false,
    looking: new AbortController(),
  };
  options.freshLook?.onAsked(() => {
    run.isAsked = true;
    run.looking.abort(LOOK);
  });
  while (!signal.aborted) {
    try {
      run.doing = 'list';
      yield* readList(run);
      run.doing = 'watch';
      yield* readChanges(run);
    } catch (error) {
      if (signal.aborted) return;
      run.report.failed(error, run.doing);
      if (isUnknownKind(error)) {
        const tried = versions.indexOf(run.resource.version) + 1;
        run.resource = { ...resource, version: versions[tried % versions.length] ?? '' };
        // What has been complete once was there, and is missed.
        if (tried < versions.length) continue;
        if (options.mayBeAbsent === true && !run.report.complete) yield [{ kind: 'synced' }];
      }
      const asked = error instanceof KubernetesError ? (error.retryAfterMs ?? 0) : 0;
      const leastMs = Math.min(asked, MOST_RETRY_AFTER_MS);
      try {
        await clock.sleep(Math.max(run.backoff.next(), leastMs), signal);
      } catch (waiting) {
        if (signal.aborted) return;
        throw waiting;
      }
    }
  }
}

/** Whether the API server does not know the kind, or not in this version. */
function isUnknownKind(error: unknown): boolean {
  if (error instanceof DefinitionGone) return error.definition === 'missing';
  return error instanceof KubernetesError && error.code === 'not-found';
}

/** A reflector at work. */
interface Run<T> {
  readonly api: KubernetesApi;
  /** In the version that the server was found to serve. */
  resource: KubernetesResource;
  readonly options: ReflectOptions<T>;
  readonly held: HeldObjects<T>;
  readonly report: Report;
  readonly backoff: Backoff;
  /** Where the next watch begins. */
  version: string;
  /** False after versions went backwards: until the next complete list equal versions say nothing. */
  trustVersions: boolean;
  /** Of the definition under which the last complete list was read. */
  definitionUid: string | undefined;
  doing: 'list' | 'watch';
  /** To be called when what was asked for by fresh looks has been taken in. */
  lookDone: (() => void)[];
  /** Somebody asks for a fresh look that has not begun yet. */
  isAsked: boolean;
  /** Ends the watch under way in favour of a look. */
  looking: AbortController;
}

/** Reads everything, beginning anew when it takes so long that the server forgets where we were. */
async function* readList<T>(run: Run<T>): AsyncGenerator<readonly ReflectorEvent<T>[], void> {
  const { held, report, options } = run;
  report.listing();
  beginLook(run);
  const definition = await lookAtDefinition(run);
  const made = uidOf(definition);
  if (made !== undefined && run.definitionUid !== undefined && made !== run.definitionUid) {
    // Versions of objects of another definition are others, though their numbers may be equal.
    run.trustVersions = false;
  }
  for (let expired = 1; ; expired += 1) {
    try {
      yield* readPages(run);
      break;
    } catch (error) {
      const isExpired = error instanceof KubernetesError && error.code === 'gone';
      if (!isExpired || expired === MAX_EXPIRED_LISTS) throw error;
    }
  }
  const isAnew =
    made !== undefined && run.definitionUid !== undefined && made !== run.definitionUid;
  if (made !== undefined && uidOf(await lookAtDefinition(run)) !== made) {
    throw new KubernetesError(
      'gone',
      'the CustomResourceDefinition was replaced while its objects were listed',
    );
  }
  const { keepWithoutDefinitionMs = 0, clock } = options;
  let deleted: ReflectorEvent<T>[] = [];
  if (isAnew && keepWithoutDefinitionMs > 0) {
    report.kept(held.endListKeeping(clock.monotonic() + keepWithoutDefinitionMs));
  } else {
    deleted = held.endList();
  }
  run.definitionUid = made ?? run.definitionUid;
  run.trustVersions = true;
  report.listed(run.version);
  yield [...deleted, { kind: 'synced' }];
  endLook(run);
}

async function* readPages<T>(run: Run<T>): AsyncGenerator<readonly ReflectorEvent<T>[], void> {
  const { api, resource, held, options } = run;
  held.beginList();
  let version = '';
  for await (const page of api.list(resource, listOptions(options))) {
    if (isOlder(page.resourceVersion, run.version)) run.trustVersions = false;
    version = page.resourceVersion;
    const events: ReflectorEvent<T>[] = [];
    for (const item of page.items) {
      const change = held.take(withKind(item, resource), run);
      if (change !== undefined) events.push(change);
    }
    if (events.length > 0) yield events;
  }
  run.version = version;
}

/** Follows the changes, one watch after the other, until an error or a doubt calls for a new list. */
async function* readChanges<T>(run: Run<T>): AsyncGenerator<readonly ReflectorEvent<T>[], void> {
  const { held, report, options } = run;
  const { clock } = options;
  let silentWatches = 0;
  for (;;) {
    const isLook = run.isAsked;
    run.looking = new AbortController();
    if (isLook) {
      beginLook(run);
      await checkVersion(run);
    }
    const end = yield* readOneWatch(run, isLook);
    const swept = held.sweep(clock.monotonic());
    if (swept.length > 0) yield swept;
    if (end.kind === 'asked') continue;
    // It was in order for as long as it was meant to be.
    run.backoff.reset();
    if (isLook) endLook(run);
    else await checkVersion(run);
    silentWatches = end.kind === 'silent' && !end.heard ? silentWatches + 1 : 0;
    if (end.kind === 'silent') report.silent();
    // Silent time and again: a stall that outlives the connection cannot be told from peace but by a list. Ever more rarely.
    if (silentWatches >= 2 && (silentWatches & (silentWatches - 1)) === 0) return;
  }
}

/** How long a watch lasts that is to tell what there is by now, and no more: the least that the API server takes. */
const LOOK_SECONDS = 1;
/** Reason of the abort of a watch in favour of a look. */
const LOOK = new Error('somebody asked for a fresh look');

/** Follows one watch to its end; one that is a look ends by itself. */
async function* readOneWatch<T>(
  run: Run<T>,
  isLook: boolean,
): AsyncGenerator<
  readonly ReflectorEvent<T>[],
  { readonly kind: WatchEnd | 'asked'; readonly heard: boolean }
> {
  const { api, resource, report } = run;
  const { clock, signal, backoffMs } = run.options;
  const longestMs = backoffMs?.max ?? 15_000;
  const begun = clock.monotonic();
  let heard = false;
  const linked = linkSignals(signal, run.looking.signal);
  const watch = api.watch(resource, {
    ...listOptions(run.options),
    resourceVersion: run.version,
    timeoutSeconds: isLook ? LOOK_SECONDS : undefined,
    signal: linked.signal,
  });
  try {
    for (;;) {
      const next = await watch.next();
      if (next.done) return { kind: next.value, heard };
      heard ||= next.value.length > 0;
      if (clock.monotonic() - begun > longestMs) run.backoff.reset();
      const events = await takeChanges(run, next.value);
      report.following(run.version);
      if (events.length > 0) yield events;
    }
  } catch (error) {
    if (error === LOOK && !signal.aborted) return { kind: 'asked', heard };
    throw error;
  } finally {
    linked.stop();
    await watch.return('over');
  }
}

/** What is asked for up to now is answered by what is read from now on. */
function beginLook<T>(run: Run<T>): void {
  const { options, lookDone } = run;
  run.isAsked = false;
  const done = options.freshLook?.begin();
  if (done !== undefined) lookDone.push(done);
}

function endLook<T>(run: Run<T>): void {
  for (const done of run.lookDone.splice(0)) done();
}

/** Takes what a watch told; deletes that came with their definition's are not passed on. */
async function takeChanges<T>(
  run: Run<T>,
  batch: readonly WatchEvent[],
): Promise<ReflectorEvent<T>[]> {
  const { held, resource, options } = run;
  const { clock, signal, keepWithoutDefinitionMs = 0 } = options;
  if (keepWithoutDefinitionMs > 0 && batch.some(({ type }) => type === 'DELETED')) {
    await clock.sleep(GATHER_DELETES_MS, signal);
    const definition = await lookAtDefinition(run);
    const uid = uidOf(definition);
    if (uid !== undefined && uid !== run.definitionUid) {
      throw new KubernetesError('gone', 'the CustomResourceDefinition was replaced');
    }
  }
  // Looked at before anything is taken: what has been taken must be told.
  let version = run.version;
  for (const { object } of batch) {
    const next = versionOf(object);
    if (isOlder(next, version)) throw wentBack(run, { from: version, to: next });
    if (next !== '') version = next;
  }
  run.version = version;
  const events: ReflectorEvent<T>[] = [];
  for (const { type, object } of batch) {
    if (type === 'BOOKMARK') continue;
    const change =
      type === 'DELETED'
        ? held.remove(object)
        : held.take(withKind(object, resource), { trustVersions: true });
    if (change !== undefined) events.push(change);
  }
  events.push(...held.sweep(clock.monotonic()));
  return events;
}

/** Between two watches: a restored backup shows in a version lower than what was seen already. */
async function checkVersion<T>(run: Run<T>): Promise<void> {
  const { api, resource, options } = run;
  for await (const page of api.list(resource, { ...listOptions(options), limit: 1 })) {
    const { resourceVersion: to } = page;
    if (isOlder(to, run.version)) throw wentBack(run, { from: run.version, to });
    return;
  }
}

/** The server knows less than it did. Until the next complete list equal versions say nothing. */
function wentBack<T>(run: Run<T>, versions: { readonly from: string; readonly to: string }) {
  run.trustVersions = false;
  const { from, to } = versions;
  return new KubernetesError('gone', `the resource version went back from ${from} to ${to}`);
}

/** Throws `DefinitionGone` when the kind's definition is deleted, or being deleted. Undefined where that is not asked for. */
async function lookAtDefinition<T>(run: Run<T>): Promise<DefinitionState | undefined> {
  const { api, resource, options } = run;
  if ((options.keepWithoutDefinitionMs ?? 0) === 0) return undefined;
  const definition = await readDefinition(api, resource, options.signal);
  switch (definition.kind) {
    case 'standing':
      return definition;
    case 'unknown':
      run.report.unguarded(definition.reason);
      return definition;
    case 'deleting':
    case 'missing':
      throw new DefinitionGone(resource, definition.kind);
    default:
      throw definition satisfies never;
  }
}

function uidOf(definition: DefinitionState | undefined): string | undefined {
  return definition?.kind === 'standing' ? definition.uid : undefined;
}

function listOptions<T>(options: ReflectOptions<T>) {
  const { namespace, fieldSelector, labelSelector, limit, silenceMs, signal } = options;
  return { namespace, fieldSelector, labelSelector, limit, silenceMs, signal };
}

/** Items of a list say neither kind nor version, which the list says for all of them. */
function withKind(item: unknown, resource: KubernetesResource): unknown {
  if (typeof item !== 'object' || item === null || 'kind' in item) return item;
  return { kind: resource.kind, ...item };
}
