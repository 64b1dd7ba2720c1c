import { createBell } from '../runtime/bell.ts';
import type { ClusterId, ClusterName } from '../wire/ids.ts';
import type { IpAddress } from '../wire/ip.ts';
import { createAnnounced } from './announced.ts';
import { createClusterIds } from './cluster-ids.ts';
import { type PeerDirectory, watchPeerDirectory } from './directory.ts';
import { createIntake } from './intake.ts';
import type { KnownPeers } from './known-peers.ts';
import {
  createPeer,
  type Peer,
  type PeerConnection,
  type PeerContext,
  type PeerContextInput,
  type PeerLife,
  type PeerStatus,
} from './peer.ts';
import type { BackendUse } from './peer-state.ts';

const OWN_FILE_RESCAN_MS = 5000;
/** For how long ids that were learned are gathered before they are written: hundreds come at once. */
const SAVE_AFTER_MS = 250;

/** All clusters that an agent reads, for people. */
export interface MeshStatus {
  /** The own cluster first, then peers by name. */
  readonly clusters: readonly PeerStatus[];
  /** What is odd about the directory of peers. */
  readonly notes: readonly string[];
}

/** The clusters that an agent reads: its own, and a peer for each file of a directory. */
export interface Mesh {
  /** Ends only with `signal`, and takes nothing back then. */
  run(signal: AbortSignal): Promise<void>;
  status(): MeshStatus;
  /** How alive each peer is. Ids of peers that were not reached yet are those of an earlier process. */
  lives(): readonly PeerLife[];
  /** Tells what became of the backends of a peer, to be shown in its status. */
  setUse(name: ClusterName, use: BackendUse): void;
  /** Backends of a service `namespace/name` of a peer that do not count, since the peer publishes nothing with their addresses. */
  unknownBackendsOf(name: ClusterName, service: string): readonly IpAddress[];
}

interface Slot {
  readonly peer: Peer;
  readonly stop: AbortController;
  readonly ended: Promise<void>;
  isLeaving: boolean;
}

/** Makes a mesh that is not read yet. */
export function createMesh(options: {
  readonly context: Omit<PeerContextInput, 'ids' | 'onIdentified' | 'isOwnEtcd'>;
  /** File of the own cluster's etcd; undefined: only peers are read. */
  readonly ownFile: string | undefined;
  /** Directory of the peers' files; undefined: no peers. */
  readonly directory: string | undefined;
  readonly readConnection: (path: string) => Promise<PeerConnection>;
  readonly knownPeers: KnownPeers;
  /** Told of every change of which peers there are, or of their ids. */
  readonly setPeers: (peers: ReadonlyMap<ClusterName, number | undefined>) => void;
  readonly rescanMs?: number;
}): Mesh {
  const { directory, knownPeers, ownFile, readConnection, rescanMs = OWN_FILE_RESCAN_MS } = options;
  const { clock, logger, own: self } = options.context;
  const ids = createClusterIds(self);
  const slots = new Map<ClusterName, Slot>();
  const changed = createBell();
  const learned = createBell();
  let ownConnection: PeerConnection | undefined;
  let view: PeerDirectory | undefined;
  let directoryProblem: string | undefined;

  const announce = (): void => {
    if (view === undefined) return;
    // Ranges that are known from a time when a cluster was a peer are free for others.
    for (const name of context.announced.clusters()) {
      if (name !== self.name && !view.peers.has(name)) context.announced.forget(name);
    }
    options.setPeers(new Map([...view.peers.keys()].map((name) => [name, knownPeers.idOf(name)])));
  };

  const context: PeerContext = {
    ...options.context,
    announced: options.context.announced ?? createAnnounced({ own: self.name, mode: 'learn' }),
    intake: options.context.intake ?? createIntake(),
    ids,
    onIdentified(name: ClusterName, id: ClusterId) {
      if (name === self.name) return;
      knownPeers.learn(name, id);
      learned.ring();
      announce();
    },
    isOwnEtcd: (endpoints) => {
      const ours = ownConnection?.endpoints ?? [];
      return endpoints.length > 0 && endpoints.every((url) => ours.includes(url));
    },
  };
  const own = ownFile === undefined ? undefined : createPeer(self.name, context);

  /** Id of a peer that was not reached yet, from an earlier process, unless somebody else has it now. */
  const formerId = (name: ClusterName): ClusterId | undefined => {
    const id = knownPeers.idOf(name);
    const holder = id === undefined ? undefined : ids.holderOf(id);
    return holder === undefined || holder === name ? id : undefined;
  };

  const add = (name: ClusterName, signal: AbortSignal): Slot => {
    const peer = createPeer(name, context);
    const stop = new AbortController();
    const ended = peer.run(AbortSignal.any([signal, stop.signal]));
    logger.info({ cluster: name }, 'peer added');
    return { peer, stop, ended, isLeaving: false };
  };

  /** Takes a peer out. A file that comes back meanwhile waits until everything of it is taken back. */
  const remove = async (name: ClusterName, slot: Slot): Promise<void> => {
    slot.isLeaving = true;
    slot.stop.abort();
    await slot.ended;
    slot.peer.drain();
    slots.delete(name);
    options.context.lag?.forget(name);
    context.intake.forget(name);
    if (view?.peers.has(name) !== true) knownPeers.forget(name);
    learned.ring();
    logger.info({ cluster: name }, 'peer removed');
    changed.ring();
  };

  const follow = (signal: AbortSignal, removals: Set<Promise<void>>): void => {
    if (view === undefined) return;
    for (const [name, slot] of slots) {
      if (view.peers.has(name) || slot.isLeaving) continue;
      const removal = remove(name, slot).finally(() => removals.delete(removal));
      removals.add(removal);
    }
    for (const [name, file] of view.peers) {
      const slot = slots.get(name) ?? add(name, signal);
      slots.set(name, slot);
      if (slot.isLeaving) continue;
      if (file.connection !== undefined) slot.peer.connectWith(file.connection);
      slot.peer.setFileProblem(file.problem);
    }
    announce();
  };

  const saveKnownPeers = async (signal: AbortSignal): Promise<void> => {
    signal.addEventListener('abort', () => learned.ring(), { once: true });
    while (!signal.aborted) {
      await learned.wait(60_000, clock);
      learned.clear();
      await clock.sleep(SAVE_AFTER_MS, signal).catch(() => undefined);
      knownPeers.save?.();
    }
  };

  const followOwnFile = async (signal: AbortSignal): Promise<void> => {
    if (own === undefined || ownFile === undefined) return;
    while (!signal.aborted) {
      try {
        ownConnection = await readConnection(ownFile);
        own.connectWith(ownConnection);
        own.setFileProblem(undefined);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        own.setFileProblem(reason.includes(ownFile) ? reason : `cannot use ${ownFile}: ${reason}`);
      }
      await clock.sleep(rescanMs, signal).catch(() => undefined);
    }
  };

  const followDirectory = async (signal: AbortSignal): Promise<void> => {
    if (directory === undefined) {
      view = { peers: new Map(), notes: [] };
      changed.ring();
      return;
    }
    const views = watchPeerDirectory(directory, {
      ownName: self.name,
      readConnection,
      onUnreadable: (problem) => {
        directoryProblem = problem;
        logger.error(
          { directory },
          'directory of peers cannot be read, its peers stay as they are',
        );
      },
      signal,
      clock,
      rescanMs,
    });
    for await (const next of views) {
      directoryProblem = undefined;
      for (const note of next.notes) {
        if (view?.notes.includes(note) !== true)
          logger.warn({ note }, 'file in the directory of peers');
      }
      view = next;
      changed.ring();
    }
  };

  return {
    async run(signal) {
      const removals = new Set<Promise<void>>();
      signal.addEventListener('abort', () => changed.ring(), { once: true });
      const following = [
        own?.run(signal),
        followOwnFile(signal),
        followDirectory(signal),
        saveKnownPeers(signal),
      ];
      while (!signal.aborted) {
        await changed.wait(60_000, clock);
        changed.clear();
        if (!signal.aborted) follow(signal, removals);
      }
      await Promise.all([
        ...following,
        ...removals,
        ...[...slots.values()].map(({ ended }) => ended),
      ]);
      knownPeers.save?.();
    },
    lives: () =>
      [...slots.values()]
        .filter(({ isLeaving }) => !isLeaving)
        .map(({ peer }) => {
          const life = peer.life();
          return { ...life, clusterId: life.clusterId ?? formerId(life.name) };
        }),
    setUse: (name, use) => slots.get(name)?.peer.setUse(use),
    unknownBackendsOf: (name, service) => slots.get(name)?.peer.unknownBackendsOf(service) ?? [],
    status: () => ({
      clusters: [
        ...(own === undefined ? [] : [own.status()]),
        ...[...slots.values()]
          .map(({ peer }) => peer.status())
          .sort((a, b) => (a.name < b.name ? -1 : 1)),
      ],
      notes: [
        ...(directoryProblem === undefined ? [] : [directoryProblem]),
        ...(view?.notes ?? []),
      ],
    }),
  };
}
