/** The mirror of all peers of one cluster in its local etcd, while this process leads. */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Announced } from '../../mesh/remote/announced.ts';
import { MIRRORED_KINDS } from '../../mesh/remote/cluster-sink.ts';
import type { KnownPeers } from '../../mesh/remote/known-peers.ts';
import type { LagBook } from '../../mesh/remote/lag.ts';
import { createMesh, type Mesh } from '../../mesh/remote/mesh.ts';
import type { PeerConnection } from '../../mesh/remote/peer.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import { createSlots } from '../gate/slots.ts';
import { createStamper } from '../publish/stamp.ts';
import { untilAnswered } from '../publish/until-answered.ts';
import { type LeaderTerm, watchTerm } from './leader.ts';
import { findLeftovers } from './leftovers.ts';
import { createMirrorSink, type MirrorSink } from './mirror-sink.ts';
import type { MirroredPeer } from './peer-view.ts';
import { publishReports } from './reports.ts';

/** Requests to the local etcd that may be on their way at a time, for all peers together. */
const REQUESTS_AT_A_TIME = 8;
/** Cilium's `drainGracePeriod` (`pkg/clustermesh/kvstoremesh/remote_cluster.go`). */
const REMOVAL_GRACE_MS = 180_000;

/** What a mirror is told. */
export interface MirrorOptions {
  /** The local etcd. */
  readonly store: KvStore;
  readonly own: {
    readonly name: ClusterName;
    readonly id: ClusterId;
    readonly max: MaxConnectedClusters;
  };
  /** Directory of the peers' files. */
  readonly directory: string;
  readonly readConnection: (path: string) => Promise<PeerConnection>;
  readonly leaseTtlSeconds: number;
  /** Default: three minutes, as Cilium waits. */
  readonly removalGraceMs?: number;
  readonly rescanMs?: number;
  /** What peers may announce. Default: what no other of them holds. */
  readonly announced?: Announced | undefined;
  /** Where it is kept how late changes come into the local etcd. */
  readonly lag: LagBook;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A mirror that reads the peers. Disposing stops it and deletes nothing. */
export interface Mirror extends AsyncDisposable {
  /** Writes until the term is over or `signal` aborts. What was read stays in memory, for a term that may follow. */
  write(term: LeaderTerm, signal: AbortSignal): Promise<void>;
  /** Undefined before the directory was read. */
  readonly peers: readonly MirroredPeer[] | undefined;
  /** Peers that are being removed. */
  readonly leaving: readonly ClusterName[];
  /** What is odd about the directory. */
  readonly notes: readonly string[];
}

/** Takes over what an earlier mirror left, and begins to read the peers. To be called by the leader alone. */
export async function startMirror(options: MirrorOptions, signal: AbortSignal): Promise<Mirror> {
  const { store, own, lag, clock, logger } = options;
  const waiting = { clock, logger, signal };
  const leftovers = await untilAnswered(
    () => findLeftovers(store, { ownName: own.name, signal }),
    waiting,
  );
  const lease = await untilAnswered(
    () => store.lease(options.leaseTtlSeconds, { adopt: leftovers.lease, signal }),
    waiting,
  );
  const stopping = new AbortController();
  const gone = new Set<ClusterName>();
  const sink = createMirrorSink({
    store,
    lease,
    stamper: createStamper({ lease, clock }),
    slots: createSlots(REQUESTS_AT_A_TIME),
    removalGraceMs: options.removalGraceMs ?? REMOVAL_GRACE_MS,
    onRemoved: (peer) => gone.add(peer),
    onFlushed: (peer) => lag.meterOf(peer).settle(),
    clock,
    logger,
  });
  lease.onLost(() => {
    logger.warn('lease was lost and made again: everything is written again');
    sink.rewrite();
  });
  let isDirectoryRead = false;
  const mesh = createMesh({
    context: {
      own,
      nodeIps: [],
      sink,
      peerKinds: MIRRORED_KINDS,
      // Whoever reads the mirror checks them: here values are handed on byte by byte.
      checksBackends: false,
      ownStoreId: () => store.clusterId,
      ...(options.announced === undefined ? {} : { announced: options.announced }),
      lag,
      clock,
      logger,
    },
    ownFile: undefined,
    directory: options.directory,
    readConnection: options.readConnection,
    knownPeers: createKnownPeers(),
    setPeers(peers) {
      sink.setPeers(peers.keys(), isDirectoryRead ? [] : leftovers.peers);
      isDirectoryRead = true;
    },
    ...(options.rescanMs === undefined ? {} : { rescanMs: options.rescanMs }),
  });
  const reading = mesh.run(stopping.signal);
  // It is awaited by whoever writes, and at the end.
  reading.catch(() => undefined);
  const peers = (): readonly MirroredPeer[] => peersOf(mesh, sink);

  return {
    async write(term, outer) {
      const ending = new AbortController();
      const linked = AbortSignal.any([outer, ending.signal]);
      const parts = [
        sink.write(term, linked),
        watchTerm(store, term, linked),
        publishReports(peers, { store, lease, term, gone, clock, logger, signal: linked }),
      ];
      try {
        await Promise.race([Promise.all(parts), reading]);
      } finally {
        ending.abort();
        await Promise.allSettled(parts);
      }
    },
    get peers() {
      return isDirectoryRead ? peers() : undefined;
    },
    get leaving() {
      return sink.leaving;
    },
    get notes() {
      return mesh.status().notes;
    },
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await reading;
      await sink.close();
      await lease[Symbol.asyncDispose]();
    },
  };
}

function peersOf(mesh: Mesh, sink: MirrorSink): MirroredPeer[] {
  return mesh.status().clusters.map((source) => ({ source, local: sink.statusOf(source.name) }));
}

/** Ids are learnt anew by each process: the mirror keeps what it wrote, and prunes by names. */
function createKnownPeers(): KnownPeers {
  const ids = new Map<ClusterName, ClusterId>();
  return {
    idOf: (name) => ids.get(name),
    learn: (name, id) => void ids.set(name, id),
    forget: (name) => void ids.delete(name),
  };
}
