import { setImmediate as nextTurn } from 'node:timers/promises';
import type { KvEvent, KvStore } from '../kvstore/kvstore.ts';
import type { Logger } from '../runtime/log.ts';
import { type ClusterConfig, decodeClusterConfig } from '../wire/cluster-config.ts';
import { type ClusterName, parseClusterId } from '../wire/ids.ts';
import {
  canaryPrefix,
  clusterConfigKey,
  identitiesPrefix,
  ipsPrefix,
  LOCAL_POLICIES_PREFIX,
  LOCAL_SERVICES_PREFIX,
  nodesPrefix,
  servicesPrefix,
  syncedPrefix,
} from '../wire/keys.ts';
import { validateClusterConfig } from '../wire/validate.ts';
import { WireError } from '../wire/wire-error.ts';
import { type AcceptContext, acceptPair, changeName, nameOfKey, retraction } from './accept.ts';
import type { ClusterRef, MeshKind } from './cluster-sink.ts';
import type { PeerContext, PeerFacts } from './peer.ts';
import { PeerError } from './peer-error.ts';

/** Events handled in one turn of the event loop, so that a long list does not hold up timers and sockets. */
const EVENTS_PER_TURN = 1024;

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
        latest = event.pair.value;
        look(latest);
        break;
      case 'synced':
        if (event.count === 0 && !facts.reading && latest === undefined)
          reportMissing(key, options);
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

function reportMissing(key: string, { name, own, facts }: ReaderOptions): void {
  const remedy = own ? 'check --cluster-name' : 'the file must bear its name';
  facts.problem = {
    kind: 'failed',
    reason: `key ${key} is missing: either the cluster there is not called ${name} (${remedy}), or its clustermesh-apiserver has not started`,
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
      before.capabilities.syncedCanaries === syncedCanaries;
    if (same) return false;
    throw new PeerError('store-replaced', `cluster ${name} keeps its data in another layout now`);
  }
  facts.ref ??= { name, id: parseClusterId(config.id, context.own.max), own: options.own };
  context.ids.take(config.id, name);
  context.onIdentified(name, facts.ref.id);
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

/** Starts every kind when its marker is seen, or all at once where the cluster has no markers. */
async function readKinds(
  store: KvStore,
  options: ReaderOptions,
  session: { ref: ClusterRef; config: ClusterConfig; start: (task: Promise<void>) => void },
): Promise<void> {
  const { cached, syncedCanaries } = session.config.capabilities;
  const waiting = new Set(kindsOffered(options.kinds, session.config));
  let ipsWait = false;
  const begin = (kind: MeshKind): Promise<void> =>
    watchKind(store, kind, {
      ...options,
      ref: session.ref,
      prefix: prefixOf(kind, options.name, cached),
      onSynced,
    });
  const onSynced = (kind: MeshKind): void => {
    // Identities come first: policy must know who it is before an address says that they are there.
    if (kind === 'identities' && ipsWait) {
      ipsWait = false;
      session.start(begin('ips'));
    }
  };
  const onMarker = (marker: string): void => {
    for (const kind of [...waiting]) {
      if (markerOf(kind, cached) !== marker) continue;
      waiting.delete(kind);
      if (kind === 'ips' && !options.facts.synced.has('identities')) ipsWait = true;
      else session.start(begin(kind));
    }
  };
  if (!syncedCanaries) {
    for (const kind of [...waiting]) onMarker(markerOf(kind, cached));
    return;
  }
  const prefix = syncedPrefix(options.name);
  for await (const event of store.watch({ prefix }, { signal: options.signal })) {
    noteConnection('markers', event, options);
    if (event.kind === 'put') onMarker(event.pair.key.slice(prefix.length));
  }
}

/** Kinds that a cluster has, by what it says of itself: not every version publishes the last two. */
export function kindsOffered(
  kinds: readonly MeshKind[],
  { capabilities }: ClusterConfig,
): readonly MeshKind[] {
  return kinds.filter((kind) => {
    if (kind === 'serviceexports') return capabilities.serviceExportsEnabled !== undefined;
    if (kind === 'endpointslices') return capabilities.endpointSlicesExportMode !== undefined;
    return true;
  });
}

/**
 * Marker of a kind below `cilium/synced/<cluster>/`. What is for the own agents alone has none: our apiserver writes its
 * markers only when everything is in etcd, so that of the services stands for it.
 */
function markerOf(kind: MeshKind, cached: boolean): string {
  const marked = kind === 'local-services' || kind === 'local-policies' ? 'services' : kind;
  return canaryPrefix(marked, { cached });
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
    case 'local-services':
      return LOCAL_SERVICES_PREFIX;
    case 'local-policies':
      return LOCAL_POLICIES_PREFIX;
    default:
      return kind satisfies never;
  }
}

async function watchKind(
  store: KvStore,
  kind: MeshKind,
  options: ReaderOptions & { ref: ClusterRef; prefix: string; onSynced: (kind: MeshKind) => void },
): Promise<void> {
  const { facts, ref, context, signal } = options;
  const { holdings, refusals } = facts;
  const { sink } = context;
  const accept: AcceptContext = {
    name: options.name,
    id: ref.id,
    max: context.own.max,
    own: ref.own,
    nodeIps: context.nodeIps,
  };
  let events = 0;
  for await (const event of store.watch({ prefix: options.prefix }, { signal })) {
    noteConnection(kind, event, options);
    switch (event.kind) {
      case 'list-start':
        holdings.beginList(kind);
        break;
      case 'put': {
        const result = acceptPair(kind, event.pair, accept);
        if (result.kind === 'accepted') {
          refusals.clear(event.pair.key);
          holdings.add(kind, changeName(result.change));
          sink.apply(ref, result.change, event.pair);
        } else {
          noteRefusal(event.pair.key, result, options);
        }
        break;
      }
      case 'delete': {
        refusals.clear(event.key);
        const name = nameOfKey(event.key);
        if (name !== undefined && holdings.remove(kind, name))
          sink.apply(ref, retraction(kind, name), undefined);
        break;
      }
      case 'synced':
        for (const name of holdings.endList(kind))
          sink.apply(ref, retraction(kind, name), undefined);
        facts.synced.add(kind);
        sink.synced(ref, kind);
        options.onSynced(kind);
        facts.changed();
        break;
      case 'progress':
      case 'disconnected':
        break;
      default:
        event satisfies never;
    }
    events += 1;
    if (events % EVENTS_PER_TURN === 0) await nextTurn();
  }
}

function noteRefusal(
  key: string,
  refusal: { reason: Parameters<PeerFacts['refusals']['note']>[1]; message: string },
  { facts, logger }: ReaderOptions,
): void {
  const { reason, message } = refusal;
  if (facts.refusals.note(key, reason, message)) {
    logger.warn(
      { key, reason, message },
      'value of the cluster refused, more of this reason are only counted',
    );
  } else {
    logger.debug({ key, reason, message }, 'value of the cluster refused');
  }
}

/** Keeps which watches are cut off. An etcd that is another one than before must show its markers again first. */
function noteConnection(watch: string, event: KvEvent, { facts, name }: ReaderOptions): void {
  if (event.kind === 'disconnected') {
    facts.broken.set(watch, event.error);
    facts.changed();
    return;
  }
  if (event.kind === 'list-start' && event.reason === 'cluster-changed') {
    throw new PeerError('store-replaced', `the etcd of cluster ${name} was replaced by another`);
  }
  if (facts.broken.delete(watch)) facts.changed();
}
