import type { Test } from 'tap';
import { KvError, type KvStore } from '../../kvstore/kvstore.ts';
import { createLogger } from '../../runtime/log.ts';
import { createManualClock, type ManualClock } from '../../testing/manual-clock.ts';
import { parseClusterId, parseClusterName } from '../../wire/ids.ts';
import { createClusterIds } from '../cluster-ids.ts';
import { createPeer, type Peer, type PeerConnection, type PeerContext } from '../peer.ts';
import { type PublishedCluster, publishCluster } from './published-cluster.ts';
import { createRecordingSink, type RecordingSink } from './recording-sink.ts';
import { until } from './until.ts';

/** A connection that was lost. */
export const LOST = new KvError('unavailable', 'connect ECONNREFUSED', { retryable: true });
/** When the clock begins, milliseconds since 1970. */
export const NOW = Date.UTC(2026, 0, 1);

/** Peer beta (2) of alpha (1) in memory, on a clock turned by hand. */
export interface PeerRig {
  readonly cluster: PublishedCluster;
  readonly peer: Peer;
  readonly sink: RecordingSink;
  readonly clock: ManualClock;
  readonly opened: () => number;
  offer(fingerprint: string, open: () => Promise<KvStore>, more?: Partial<PeerConnection>): void;
  /** Lets time pass in small steps; with `alive` the server gives a sign of life each 5 s. */
  pass(milliseconds: number, options?: { alive?: boolean }): Promise<void>;
}

/** Starts a peer that publishes nothing yet. */
export function startPeer(t: Test, context: Partial<PeerContext> = {}): PeerRig {
  const clock = createManualClock({ now: NOW });
  const cluster = publishCluster('beta', 2);
  const sink = createRecordingSink();
  const stopping = new AbortController();
  let opened = 0;
  const peer = createPeer(cluster.name, {
    own: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
    nodeIps: [],
    sink,
    ids: createClusterIds({ id: 1, name: parseClusterName('alpha') }),
    onIdentified: () => undefined,
    clock,
    logger: createLogger('test', { level: 'silent' }),
    ...context,
  });
  const offer: PeerRig['offer'] = (fingerprint, open, more = {}) =>
    peer.connectWith({
      fingerprint,
      endpoints: ['https://192.0.2.2:2379'],
      ...more,
      open: async () => {
        opened += 1;
        return open();
      },
    });
  offer('first', async () => cluster.store.connect());
  const running = peer.run(stopping.signal);
  t.teardown(async () => {
    stopping.abort();
    await running;
  });
  const pass: PeerRig['pass'] = async (milliseconds, { alive = false } = {}) => {
    for (let passed = 0; passed < milliseconds; passed += 1000) {
      if (alive && passed % 5000 === 0) cluster.store.faults.progress();
      await clock.advance(Math.min(1000, milliseconds - passed));
    }
  };
  return { cluster, peer, sink, clock, opened: () => opened, offer, pass };
}

/** Publishes a node, an identity, an address and a service, with the markers. */
export async function publishAll(cluster: PublishedCluster<KvStore>): Promise<void> {
  await cluster.config();
  await cluster.node('n1', '198.51.100.1');
  await cluster.identity(257, { app: 'web' });
  await cluster.ip('10.2.0.5', { host: '198.51.100.1', local: 257 });
  await cluster.service('web', { '10.2.0.5': 8080 });
  await cluster.marked();
}

/** Starts a peer and waits until it is ready. */
export async function startReady(t: Test, context: Partial<PeerContext> = {}): Promise<PeerRig> {
  const rig = startPeer(t, context);
  await publishAll(rig.cluster);
  await until('ready', () => stateOf(rig) === 'ready');
  return rig;
}

/** Kind of its state. */
export const stateOf = ({ peer }: PeerRig): string => peer.status().state.kind;
/** Codes of its notes. */
export const codesOf = ({ peer }: PeerRig): string[] => peer.status().notes.map(({ code }) => code);
/** Reason of its state, empty where there is none. */
export const reasonOf = ({ peer }: PeerRig): string => {
  const { state } = peer.status();
  return 'reason' in state ? state.reason : '';
};
/** What was ever taken away. */
export const taken = ({ sink }: PeerRig): string[] =>
  sink.log.filter((line) => line.startsWith('-'));
