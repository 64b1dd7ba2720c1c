/** Hands what peers say to their mirrors in the local etcd, and decides which peers have one. */
import { changeName } from '../../mesh/remote/accept.ts';
import { kindsOffered } from '../../mesh/remote/cluster-reader.ts';
import {
  type ClusterRef,
  type ClusterSink,
  MIRRORED_KINDS,
} from '../../mesh/remote/cluster-sink.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { kindOfChange, type MirroredKind, suffixOfChange } from './cache-key.ts';
import type { LeaderTerm } from './leader.ts';
import type { MirrorWriterContext } from './mirror-writer.ts';
import { createPeerMirror, type PeerMirror, type PeerMirrorStatus } from './peer-mirror.ts';
import { type Removal, removePeer } from './removal.ts';

/** All mirrors of one process. */
export interface MirrorSink extends ClusterSink {
  /** Which peers there are. What is mirrored of any other is removed, `found` in etcd included. */
  setPeers(peers: Iterable<ClusterName>, found?: Iterable<ClusterName>): void;
  /** Writes until the term is over or `signal` aborts. */
  write(term: LeaderTerm, signal: AbortSignal): Promise<void>;
  /** The lease was lost. */
  rewrite(): void;
  statusOf(peer: ClusterName): PeerMirrorStatus | undefined;
  /** Peers that are being removed. */
  readonly leaving: readonly ClusterName[];
  /** Stops removals. */
  close(): Promise<void>;
}

interface Slot {
  readonly mirror: PeerMirror;
  removal: Removal | undefined;
  /** Latest connection's name for the cluster; one that left is not listened to any more. */
  ref: ClusterRef | undefined;
}

/** Makes the mirrors; they write nothing before `write`. */
export function createMirrorSink(
  context: MirrorWriterContext & {
    /** Time between the removal of a peer's configuration and of its data, so that agents can leave first. */
    readonly removalGraceMs: number;
    /** Told when nothing of a peer is left in etcd. */
    readonly onRemoved: (peer: ClusterName) => void;
    readonly onFlushed?: (peer: ClusterName) => void;
  },
): MirrorSink {
  const slots = new Map<ClusterName, Slot>();
  /** What readers that were stopped still say: it is of the file's removal, not of the peer. */
  const retired = new WeakSet<ClusterRef>();
  const closing = new AbortController();
  let writing: { readonly term: LeaderTerm; readonly signal: AbortSignal } | undefined;
  let tasks = new Set<Promise<void>>();
  const stopping = new Map<ClusterName, AbortController>();
  let fail: (error: unknown) => void = () => undefined;

  const start = (mirror: PeerMirror): void => {
    if (writing === undefined) return;
    const stop = new AbortController();
    stopping.set(mirror.name, stop);
    const task = mirror
      .write(writing.term, AbortSignal.any([writing.signal, stop.signal]))
      .catch((error: unknown) => fail(error))
      .finally(() => tasks.delete(task));
    tasks.add(task);
  };
  const add = (name: ClusterName): Slot => {
    const mirror = createPeerMirror(name, context);
    const slot: Slot = { mirror, removal: undefined, ref: undefined };
    slots.set(name, slot);
    start(mirror);
    return slot;
  };
  const leave = (slot: Slot): void => {
    if (slot.removal !== undefined) return;
    if (slot.ref !== undefined) retired.add(slot.ref);
    slot.ref = undefined;
    const { name } = slot.mirror;
    const removal = removePeer(slot.mirror, {
      ...context,
      graceMs: context.removalGraceMs,
      signal: closing.signal,
    });
    slot.removal = removal;
    void removal.ended.then((outcome) => {
      if (slot.removal !== removal) return;
      slot.removal = undefined;
      if (outcome !== 'removed') return;
      stopping.get(name)?.abort();
      slots.delete(name);
      context.onRemoved(name);
    });
  };
  /** A peer may come back at any time: what was not deleted yet stays, the rest is told anew. */
  const comeBack = (slot: Slot): void => {
    if (slot.removal === undefined) return;
    slot.removal.cancel();
    slot.removal = undefined;
    slot.mirror.comeBack();
  };
  let wanted: ReadonlySet<ClusterName> = new Set();

  const slotOf = (cluster: ClusterRef): Slot | undefined =>
    retired.has(cluster) ? undefined : slots.get(cluster.name);

  return {
    setPeers(peers, found = []) {
      wanted = new Set(peers);
      for (const name of found) if (!slots.has(name)) add(name);
      for (const name of wanted) comeBack(slots.get(name) ?? add(name));
      for (const [name, slot] of slots) if (!wanted.has(name)) leave(slot);
    },
    configured(cluster, config) {
      const slot = slotOf(cluster);
      if (slot === undefined) return;
      slot.ref = cluster;
      const on = new Set<string>(kindsOffered(MIRRORED_KINDS, config));
      slot.mirror.configure(
        config,
        MIRRORED_KINDS.filter((kind) => !on.has(kind)),
      );
    },
    apply(cluster, change, pair) {
      const slot = slotOf(cluster);
      const kind = kindOfChange(change);
      if (slot === undefined || kind === undefined) return;
      const name = changeName(change);
      if (change.value === undefined || pair === undefined) slot.mirror.remove(kind, name);
      else {
        const suffix = suffixOfChange(change, pair.key);
        slot.mirror.put(kind, name, { suffix, value: pair.value });
      }
    },
    synced(cluster, kind) {
      const mirrored = MIRRORED_KINDS.find(
        (candidate): candidate is MirroredKind => candidate === kind,
      );
      if (mirrored !== undefined) slotOf(cluster)?.mirror.sourceSynced(mirrored);
    },
    removed(cluster) {
      // The removal of its file was told before; otherwise it has another id now, and begins anew.
      slotOf(cluster)?.mirror.beginAnew();
    },
    async write(term, signal) {
      const faulty = new AbortController();
      let fault: { readonly error: unknown } | undefined;
      fail = (error) => {
        fault ??= { error };
        faulty.abort();
      };
      const ending = AbortSignal.any([signal, term.over, faulty.signal]);
      tasks = new Set();
      writing = { term, signal: ending };
      for (const { mirror } of slots.values()) start(mirror);
      await untilAborted(ending);
      writing = undefined;
      await Promise.all(tasks);
      if (fault !== undefined) throw fault.error;
    },
    rewrite() {
      for (const { mirror } of slots.values()) mirror.rewrite();
    },
    statusOf: (peer) => slots.get(peer)?.mirror.status,
    get leaving() {
      return [...slots.values()]
        .filter(({ removal }) => removal !== undefined)
        .map(({ mirror }) => mirror.name);
    },
    async close() {
      closing.abort();
      await Promise.all([...slots.values()].map(({ removal }) => removal?.ended));
    },
  };
}

async function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
