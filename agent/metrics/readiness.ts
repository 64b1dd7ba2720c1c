/** Whether a node does its part, and if not, why and what to do. */
import { OWN_KINDS } from '../../mesh/remote/cluster-sink.ts';
import type { MeshStatus } from '../../mesh/remote/mesh.ts';
import type { PeerStatus } from '../../mesh/remote/peer.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Datapath } from '../datapath/desired.ts';
import type { Engine } from '../state/engine.ts';
import type { ReconcilerStatus } from '../state/reconciler.ts';

/** How long a start waits for peers that have not been read yet: a dead one must not keep a node out of service. */
const PEER_PATIENCE_MS = 15_000;
/** What is attached is read from the kernel, so not more often than this. */
const DETACHED_EACH_MS = 1000;

/** What readiness is made of. */
export interface ReadinessSources {
  readonly mesh: () => MeshStatus;
  readonly engine: Pick<Engine, 'status'>;
  readonly datapath: Pick<Datapath, 'detached'>;
  /** Host interfaces of this node's endpoints. */
  readonly hostInterfaces: () => readonly string[];
  /** What the latest comparison of the kernel with what is wanted found, a sentence each. */
  readonly audited: () => readonly string[];
  /** Whether routes of the host do not follow yet what clusters say. Default: there are none. */
  readonly areRoutesBehind?: (() => boolean) | undefined;
  readonly clock: Clock;
}

/** Readiness of a node. */
export interface Readiness {
  /** Why the node is not ready, a sentence each with what to do; empty when it is. `known`: what was just asked for anyway. */
  missing(known?: Pick<MeshStatus, 'clusters'>): readonly string[];
  /** What of the datapath is not attached, a sentence each: pods may be cut off. */
  detached(): readonly string[];
  /** Whether everything has been read of the own cluster. */
  isOwnRead(): boolean;
}

/** Begins to wait: the time of the call is the start that peers are waited for from. */
export function createReadiness(sources: ReadinessSources): Readiness {
  const { clock, datapath } = sources;
  const startedAt = clock.monotonic();
  /** They have followed once; later on they are never more than moments behind. */
  let routed = sources.areRoutesBehind === undefined;
  let attached: { readonly at: number; readonly problems: readonly string[] } | undefined;

  const detached = (): readonly string[] => {
    const now = clock.monotonic();
    if (attached === undefined || now - attached.at >= DETACHED_EACH_MS) {
      attached = { at: now, problems: datapath.detached(sources.hostInterfaces()) };
    }
    return attached.problems;
  };

  const unread = (): string[] => missingOfOwn(sources.mesh().clusters.find(({ own }) => own));

  return {
    detached,
    isOwnRead: () => unread().length === 0,
    missing(known = sources.mesh()) {
      const { clusters } = known;
      const isStarting = clock.monotonic() - startedAt < PEER_PATIENCE_MS;
      const unread = [
        ...missingOfOwn(clusters.find(({ own }) => own)),
        ...(isStarting ? clusters.filter(isOutstanding).map(missingOfPeer) : []),
      ];
      routed ||= unread.length === 0 && sources.areRoutesBehind?.() === false;
      return [
        ...unread,
        ...(routed ? [] : ['routes of this host to pods elsewhere are still being made']),
        ...detached(),
        ...sources.engine.status().tables.flatMap(missingOfTable),
        ...sources.audited(),
      ];
    },
  };
}

function missingOfOwn(own: PeerStatus | undefined): string[] {
  if (own === undefined) return ['the own cluster is not being read yet'];
  const missing = OWN_KINDS.filter((kind) => !own.synced.includes(kind));
  if (missing.length === 0) return [];
  const why = 'reason' in own.state ? own.state.reason : 'it is being read';
  return [
    `of the own cluster ${own.name} not everything has been read: ${missing.join(', ')}: ${why}; if this lasts, look at its clustermesh-apiserver (/readyz)`,
  ];
}

/** A peer counts until it was read once; that it is away later is no fault of this node. */
function isOutstanding(cluster: PeerStatus): boolean {
  return !cluster.own && !cluster.wasReady;
}

function missingOfPeer({ name, state }: PeerStatus): string {
  const why = 'reason' in state ? state.reason : `it is ${state.kind}`;
  return `peer ${name} has not been read yet: ${why}; after ${PEER_PATIENCE_MS / 1000} s it is not waited for any more`;
}

function missingOfTable({ name, failed, lastError }: ReconcilerStatus): string[] {
  if (failed === 0) return [];
  return [
    `table ${name}: ${failed} rows cannot be written to the kernel and are tried again: ${lastError ?? 'unknown'}`,
  ];
}
