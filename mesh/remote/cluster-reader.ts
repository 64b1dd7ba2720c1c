import { setMaxListeners } from 'node:events';
import { KvError, type KvEvent, type KvStore } from '../kvstore/kvstore.ts';
import type { Logger } from '../runtime/log.ts';
import { type ClusterConfig, decodeClusterConfig } from '../wire/cluster-config.ts';
import { type ClusterName, parseClusterId } from '../wire/ids.ts';
import {
  canaryPrefix,
  clusterConfigKey,
  identitiesPrefix,
  ipsPrefix,
  LOCAL_IDENTITIES_PREFIX,
  LOCAL_IPS_PREFIX,
  LOCAL_POLICIES_PREFIX,
  LOCAL_SERVICES_PREFIX,
  nodesPrefix,
  servicesPrefix,
  syncedPrefix,
} from '../wire/keys.ts';
import { validateClusterConfig } from '../wire/validate.ts';
import { WireError } from '../wire/wire-error.ts';
import type { AcceptContext } from './accept.ts';
import type { ClusterRef, MeshKind } from './cluster-sink.ts';
import { openDigests } from './digests.ts';
import { wholeOf } from './halves.ts';
import { createIntakeKeeper } from './intake-keeper.ts';
import { createKindReader, type KindReader } from './kind-reader.ts';
import { isOwnStore, leadsToOurselves, refuseOwnStore } from './own-store.ts';
import type { PeerContext, PeerFacts } from './peer.ts';
import { PeerError } from './peer-error.ts';
import { followStamps } from './stamps.ts';

/** Tasks of one connection that may wait for its end at a time. */
const MOST_TASKS = 64;

/** What one connection to a cluster needs. */
export interface ReaderOptions {
  readonly name: ClusterName;
  readonly own: boolean;
  readonly kinds: readonly MeshKind[];
  readonly context: PeerContext;
  readonly facts: PeerFacts;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/**
 * Reads a cluster over one connection: its configuration, then, each after its synced marker, all kinds. Throws a
 * PeerError when the connection must be made anew, and ends without one when `signal` aborts.
 */
export async function readCluster(store: KvStore, options: ReaderOptions): Promise<void> {
  const ending = new AbortController();
  const signal = AbortSignal.any([options.signal, ending.signal]);
  // Each kind and each task beside waits for it: more than the ten after which Node suspects a leak.
  setMaxListeners(MOST_TASKS, signal);
  const tasks = new Set<Promise<void>>();
  let failure: { readonly error: unknown } | undefined;

  /** One part that fails ends them all; the first failure is the one that is told. */
  const start = (task: Promise<void>): void => {
    const guarded = task
      .catch((error: unknown) => {
        if (signal.aborted) return;
        failure ??= { error };
        ending.abort();
      })
      .finally(() => tasks.delete(guarded));
    tasks.add(guarded);
  };

  start(
    watchConfig(store, { ...options, signal }, (ref, config) => {
      start(readKinds(store, { ...options, signal }, { ref, config, start }));
      const { clock, lag } = options.context;
      const { own, name: cluster, logger } = options;
      const { cached } = config.capabilities;
      if (lag !== undefined)
        start(followStamps(store, { book: lag, cluster, own, cached, clock, logger, signal }));
    }),
  );
  while (tasks.size > 0) await Promise.all(tasks);
  if (failure !== undefined) throw failure.error;
}

async function watchConfig(
  store: KvStore,
  options: ReaderOptions,
  onAccepted: (ref: ClusterRef, config: ClusterConfig) => void,
): Promise<void> {
  const { name, facts, context } = options;
  const key = clusterConfigKey(name);
  let latest: Buffer | undefined;
  const look = (value: Buffer): void => {
    if (!takeConfig(value, key, options)) return;
    const { ref, config } = facts;
    if (ref !== undefined && config !== undefined) onAccepted(ref, config);
  };
  // A cluster that was refused because another holds its id has its turn when that one leaves.
  const stopWaiting = context.ids.onRelease(() => {
    if (latest !== undefined && !facts.reading && facts.ref === undefined) look(latest);
  });
  options.signal.addEventListener('abort', stopWaiting, { once: true });
  for await (const event of store.watch({ key }, { signal: options.signal })) {
    noteConnection('config', event, options);
    switch (event.kind) {
      case 'put':
        await refuseOwnStore(store, name, { ...context, signal: options.signal });
        latest = event.pair.value;
        look(latest);
        break;
      case 'synced':
        if (event.count === 0 && !facts.reading && latest === undefined)
          reportMissing(key, {
            ...options,
            isOwn: await isOwnStore(store, context, options.signal),
          });
        break;
      case 'list-start':
      case 'delete':
      case 'progress':
      case 'disconnected':
        break;
      default:
        event satisfies never;
    }
  }
}

function reportMissing(
  key: string,
  { name, own, facts, isOwn }: ReaderOptions & { isOwn: boolean },
): void {
  const remedy = own ? 'check --cluster-name' : 'the file must bear its name';
  facts.problem = {
    kind: 'failed',
    reason:
      isOwn && !own
        ? leadsToOurselves(name)
        : `key ${key} is missing: either the cluster there is not called ${name} (${remedy}), or its clustermesh-apiserver has not started`,
  };
  facts.changed();
}

/** Looks at a configuration. Returns whether reading should begin with it. */
function takeConfig(value: Buffer, key: string, options: ReaderOptions): boolean {
  const { name, context, facts } = options;
  let config: ClusterConfig;
  try {
    config = decodeClusterConfig(value, key);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return refuseConfig(
      new PeerError('config-unreadable', error.message, { cause: error }),
      options,
    );
  }
  const refusal = options.own
    ? refusalOfOwn(config, options)
    : validateClusterConfig(config, {
        peer: name,
        own: context.own,
        holder: context.ids.holderOf(config.id),
      });
  if (refusal !== undefined) return refuseConfig(new PeerError('config-refused', refusal), options);
  if (facts.ref !== undefined && facts.ref.id !== config.id) {
    throw new PeerError(
      'id-changed',
      `cluster ${name} had id ${facts.ref.id} and has ${config.id} now`,
    );
  }
  const before = facts.config;
  facts.config = config;
  facts.problem = undefined;
  if (facts.reading) {
    const { cached, syncedCanaries } = config.capabilities;
    const same =
      before?.capabilities.cached === cached &&
      before.capabilities.syncedCanaries === syncedCanaries &&
      String(kindsOffered(options.kinds, before)) === String(kindsOffered(options.kinds, config));
    if (same) {
      if (facts.ref !== undefined) context.sink.configured?.(facts.ref, config);
      return false;
    }
    throw new PeerError('store-replaced', `cluster ${name} keeps its data in another layout now`);
  }
  facts.ref ??= { name, id: parseClusterId(config.id, context.own.max), own: options.own };
  context.ids.take(config.id, name);
  context.onIdentified(name, facts.ref.id);
  context.sink.configured?.(facts.ref, config);
  facts.reading = true;
  facts.changed();
  return true;
}

/** Before reading began the problem stands until the key changes; afterwards the connection ends. */
function refuseConfig(error: PeerError, { facts }: ReaderOptions): boolean {
  if (facts.reading) throw error;
  facts.problem = { kind: 'failed', reason: error.message };
  facts.changed();
  return false;
}

function refusalOfOwn(config: ClusterConfig, { name, context }: ReaderOptions): string | undefined {
  if (config.id === context.own.id) return undefined;
  return `our own cluster ${name} publishes id ${config.id} and this agent was started with --cluster-id ${context.own.id}: both must be the same`;
}

/** Kinds that are read only when others are known: who it is before where it is, and both before what leads there. */
const READ_AFTER: Readonly<Partial<Record<MeshKind, readonly MeshKind[]>>> = {
  ips: ['identities', 'local-identities', 'nodes'],
  'local-ips': ['identities', 'local-identities', 'nodes'],
  services: ['nodes', 'ips'],
};

/** Starts every kind when its marker is seen, or all at once where the cluster has no markers. */
async function readKinds(
  store: KvStore,
  options: ReaderOptions,
  session: { ref: ClusterRef; config: ClusterConfig; start: (task: Promise<void>) => void },
): Promise<void> {
  const { cached, syncedCanaries } = session.config.capabilities;
  const { context, facts, name, signal } = options;
  const { intake: state } = facts;
  const offered = kindsOffered(options.kinds, session.config);
  const waiting = new Set(offered);
  const marked = new Set<MeshKind>();
  const readers = new Map<MeshKind, KindReader>();
  const prefix = (kind: MeshKind): string => prefixOf(kind, name, cached);
  const accept: AcceptContext = {
    name,
    id: session.ref.id,
    max: context.own.max,
    own: session.ref.own,
    nodeIps: context.nodeIps,
  };
  state.begin(session.ref, accept, prefix);
  const { own } = session.ref;
  const digests = await openDigests(store, { own, clock: context.clock, signal });
  if (signal.aborted) return;
  session.start(digests.run());
  const keeper = createIntakeKeeper(store, { ...options, readers });
  session.start(keeper.run());

  /** Of a kind in two halves it is told when both are known. */
  const tellSynced = (kind: MeshKind): void => {
    const whole = wholeOf(kind);
    const halves = offered.filter((one) => wholeOf(one) === whole);
    if (halves.every((half) => facts.synced.has(half))) context.sink.synced(session.ref, whole);
  };
  /** Revision that the markers, and what had to be read first, are known at. */
  let known = 0n;
  const begin = (kind: MeshKind): void => {
    const floor = known;
    const reader = createKindReader(store, kind, {
      cluster: name,
      prefix: prefix(kind),
      marker: syncedCanaries ? markerOf(kind, cached) : undefined,
      state,
      intake: context.intake,
      digests,
      lag: context.lag?.meterOf(name),
      relistJitterMs: context.relistJitterMs,
      arrived: (event) => noteConnection(kind, event, options),
      rested: () => {
        if (state.settle(context.clock.monotonic())) keeper.wake();
      },
      onSynced: (revision) => {
        // A marker of an etcd that is gone says nothing of what stands half written in the next one.
        if (revision < floor) {
          session.start(Promise.reject(storeReplaced(name)));
          return;
        }
        if (revision > known) known = revision;
        facts.synced.add(kind);
        facts.lists.set(kind, (facts.lists.get(kind) ?? 0) + 1);
        tellSynced(kind);
        beginAllowed();
        facts.changed();
      },
      onVerified: (verification) => {
        facts.verified.set(kind, verification);
        facts.changed();
      },
      start: session.start,
      clock: context.clock,
      logger: options.logger,
      signal,
    });
    readers.set(kind, reader);
    session.start(reader.run());
  };
  const beginAllowed = (): void => {
    for (const kind of [...waiting]) {
      const before = (READ_AFTER[kind] ?? []).filter((other) => offered.includes(other));
      if (!marked.has(kind) || !before.every((other) => facts.synced.has(other))) continue;
      waiting.delete(kind);
      begin(kind);
    }
  };
  /** The marker may overtake the changes that it stands behind: so what there is now is asked for. */
  const releaseHeldBack = async (kind: MeshKind): Promise<void> => {
    try {
      const { keys } = await store.keys(prefix(kind), { signal });
      state.marked(kind, keys);
      state.settle(context.clock.monotonic());
    } catch (error) {
      // What is held back goes in time, or with the next list.
      if (!(error instanceof KvError)) throw error;
    }
  };
  const onMarker = (marker: string): void => {
    for (const kind of offered) {
      if (markerOf(kind, cached) !== marker) continue;
      marked.add(kind);
      if (state.guard.count(kind) > 0) session.start(releaseHeldBack(kind));
    }
  };
  if (!syncedCanaries) {
    for (const kind of offered) marked.add(kind);
    beginAllowed();
    return;
  }
  const markers = syncedPrefix(name);
  let isListing = true;
  for await (const event of store.watch({ prefix: markers }, { signal })) {
    noteConnection('markers', event, options);
    if (event.kind === 'list-start') isListing = true;
    else if (event.kind === 'put') {
      onMarker(event.pair.key.slice(markers.length));
      if (event.pair.modRevision > known) known = event.pair.modRevision;
    } else if (event.kind === 'synced') {
      isListing = false;
      if (event.revision > known) known = event.revision;
    } else continue;
    if (!isListing) beginAllowed();
  }
}

/** Kinds that a cluster has, by what it says of itself: not every version publishes all (Cilium `kvstoremesh/reflector`). */
export function kindsOffered(
  kinds: readonly MeshKind[],
  { capabilities }: ClusterConfig,
): readonly MeshKind[] {
  return kinds.filter((kind) => {
    if (kind === 'services') return capabilities.endpointSlicesExportMode !== 'endpointslices-only';
    if (kind === 'serviceexports') return capabilities.serviceExportsEnabled !== undefined;
    if (kind === 'endpointslices') return capabilities.endpointSlicesExportMode !== undefined;
    return true;
  });
}

/**
 * Marker of a kind below `cilium/synced/<cluster>/`. What is for the own agents alone has none, lest an older apiserver is
 * waited for in vain: ours writes a marker only when what it also stands for is in etcd.
 */
function markerOf(kind: MeshKind, cached: boolean): string {
  switch (kind) {
    case 'local-identities':
      return canaryPrefix('identities', { cached });
    case 'local-ips':
      return canaryPrefix('ips', { cached });
    case 'local-services':
    case 'local-policies':
      return canaryPrefix('services', { cached });
    default:
      return canaryPrefix(kind, { cached });
  }
}

function prefixOf(kind: MeshKind, cluster: ClusterName, cached: boolean): string {
  switch (kind) {
    case 'nodes':
      return nodesPrefix(cluster, { cached });
    case 'identities':
      return identitiesPrefix(cluster, { cached });
    case 'ips':
      return ipsPrefix(cluster, { cached });
    case 'services':
      return servicesPrefix(cluster, { cached });
    case 'serviceexports':
    case 'endpointslices':
      return `${canaryPrefix(kind, { cached })}/${cluster}/`;
    case 'local-identities':
      return LOCAL_IDENTITIES_PREFIX;
    case 'local-ips':
      return LOCAL_IPS_PREFIX;
    case 'local-services':
      return LOCAL_SERVICES_PREFIX;
    case 'local-policies':
      return LOCAL_POLICIES_PREFIX;
    default:
      return kind satisfies never;
  }
}

/** Keeps which watches are cut off. An etcd that is another one than before must show its markers again first. */
function noteConnection(watch: string, event: KvEvent, { facts, name }: ReaderOptions): void {
  if (event.kind === 'disconnected') {
    facts.broken.set(watch, event.error);
    facts.changed();
    return;
  }
  facts.sign();
  if (event.kind === 'list-start' && event.reason === 'cluster-changed') {
    throw storeReplaced(name);
  }
  if (facts.broken.delete(watch)) facts.changed();
}

function storeReplaced(name: ClusterName): PeerError {
  return new PeerError('store-replaced', `the etcd of cluster ${name} was replaced by another`);
}
