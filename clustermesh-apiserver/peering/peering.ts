/**
 * The peers of this cluster: what is kept of them becomes whom the gate believes and whom the mirror reads. One loop does it all,
 * again and again, from what is there; so it may be killed at any step.
 */
import { type Announced, createAnnounced } from '../../mesh/remote/announced.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { createFreshLook } from '../../mesh/runtime/fresh-look.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { PeerReport } from '../../mesh/wire/peer-report.ts';
import type { PeerTrust } from '../gate/peer-trust.ts';
import type { EnrollingPeers } from '../registry/peer-enrollment.ts';
import {
  type CertificateProblem,
  type ClientCertificate,
  createClientCertificate,
} from './client-certificate.ts';
import type { ManagedFolders } from './managed-folders.ts';
import type { MeshPeer } from './mesh-peer.ts';
import { type PeerSituation, peerConditions, situationFindings } from './peer-conditions.ts';
import { enrolWithPeer } from './peer-enrolment.ts';
import { findPlanFaults, type OwnCluster, type PeerFinding } from './peer-plan.ts';
import type { PeerCondition, PeerListing, PeerStore, TimedPeerCondition } from './peer-store.ts';
import { PeeringError } from './peering-error.ts';
import type { PeeringKey } from './peering-key.ts';

/** Everything is looked at again this often, whatever happens. */
const LOOK_EACH_MS = 10_000;
/** How peers are read is looked at this often, for the status of their objects. */
const STATUS_EACH_MS = 1000;
const LEAST_WAIT_MS = 50;

/** Options of `createPeering`. */
export interface PeeringOptions {
  readonly peerStore: PeerStore;
  readonly folders: ManagedFolders;
  readonly key: PeeringKey;
  readonly own: () => OwnCluster;
  /** What the mirror says of a peer; undefined: nothing yet. */
  readonly reportOf: (name: ClusterName) => Pick<PeerReport, 'state' | 'reason'> | undefined;
  /** Whether this replica is the one that writes how peers stand. */
  readonly writesStatus: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A peer with what came of it. */
export interface PeerView {
  readonly name: string;
  /** Undefined: its object was never usable. */
  readonly peer: MeshPeer | undefined;
  readonly source: string;
  readonly conditions: readonly TimedPeerCondition[];
  readonly findings: readonly PeerFinding[];
  /** Milliseconds since 1970. */
  readonly certificateNotAfter: number | undefined;
}

/** The peers, to be run. */
export interface Peering {
  readonly trust: PeerTrust;
  readonly enrolling: EnrollingPeers;
  /** What peers may announce, for who reads them. */
  readonly announced: Announced;
  /** What is kept, as last read; undefined before that. */
  readonly listing: PeerListing | undefined;
  /** Peers that are in force. */
  readonly accepted: ReadonlyMap<ClusterName, MeshPeer>;
  readonly views: readonly PeerView[];
  certificateOf(name: ClusterName): ClientCertificate['pair'];
  /** Resolves when what is kept now was looked at, and was put into force. */
  settle(signal: AbortSignal): Promise<void>;
  /** Runs until `signal` aborts. What is in the folders stays. */
  run(signal: AbortSignal): Promise<void>;
}

/** Makes it. What the folders hold from before is believed until the peers were read. */
export async function createPeering(options: PeeringOptions): Promise<Peering> {
  const { peerStore, folders, key, clock, logger } = options;
  const announced = createAnnounced({ own: options.own().name, mode: 'learn' });
  const bell = createBell();
  let isRung = false;
  const ring = (): void => {
    isRung = true;
    bell.ring();
  };
  const rounds = createFreshLook();
  rounds.onAsked(ring);
  const callbacks: (() => void)[] = [];
  const certificates = new Map<ClusterName, ClientCertificate>();
  const enrolling = new Set<Promise<void>>();
  const busy = new Set<ClusterName>();
  const refusals = new Map<ClusterName, readonly PeerFinding[]>();
  const conditionTimes = new Map<string, { status: boolean; since: number }>();
  const writtenStatus = new Map<string, string>();
  let listing: PeerListing | undefined;
  let accepted: ReadonlyMap<ClusterName, MeshPeer> = new Map();
  let held: ReadonlySet<ClusterName> = await folders.names();
  let lists = '';

  const certificateFor = async (name: ClusterName): Promise<ClientCertificate> => {
    const known = certificates.get(name);
    if (known !== undefined) return known;
    const made = createClientCertificate(await folders.readPair(name), { clock });
    certificates.set(name, made);
    return made;
  };

  /** Decides who is in force: those that are already come first, so that nobody is put out by a newcomer. */
  const judge = ({ peers }: PeerListing): ReadonlyMap<ClusterName, MeshPeer> => {
    const own = options.own();
    const isIn = (name: ClusterName): number => (accepted.has(name) || held.has(name) ? 0 : 1);
    const inTurn = [...peers.values()]
      .map(({ peer }) => peer)
      .sort((a, b) => isIn(a.name) - isIn(b.name) || (a.name < b.name ? -1 : 1));
    const next = new Map<ClusterName, MeshPeer>();
    refusals.clear();
    for (const peer of inTurn) {
      const faults = findPlanFaults(peer, { own, others: next.values() });
      const bad = faults.filter(({ severity }) => severity === 'refusal');
      const former = accepted.get(peer.name);
      if (bad.length === 0) next.set(peer.name, peer);
      else {
        refusals.set(peer.name, bad);
        if (former !== undefined) next.set(peer.name, former);
      }
    }
    return next;
  };

  const enrol = (peer: MeshPeer, certificate: ClientCertificate, signal: AbortSignal): void => {
    busy.add(peer.name);
    const attempt = getCertificate(peer, signal)
      .then(
        (pair) => {
          certificate.take(pair);
          logger.info({ peer: peer.name }, 'there is a certificate for a peer');
        },
        (error: unknown) => {
          if (signal.aborted) return;
          const problem = toCertificateProblem(error);
          if (problem.text !== certificate.problem?.text) {
            logger.warn(
              { peer: peer.name, reason: problem.text },
              'there is no certificate for a peer',
            );
          }
          certificate.fail(problem);
        },
      )
      .finally(() => {
        busy.delete(peer.name);
        enrolling.delete(attempt);
        ring();
      });
    enrolling.add(attempt);
  };
  const getCertificate = async (peer: MeshPeer, signal: AbortSignal) => {
    const said = await enrolWithPeer(peer, { ownName: options.own().name, key, signal });
    if (said.clusterName !== peer.name) {
      throw new PeeringError(
        'refused',
        `${peer.spec.enrollment.join(', ')} is of cluster ${said.clusterName}, not of ${peer.name}`,
      );
    }
    if (said.outcome.kind === 'refused') {
      throw new PeeringError('half-connected', said.outcome.details);
    }
    return said.outcome.pair;
  };

  const putInForce = async (peer: MeshPeer, signal: AbortSignal): Promise<void> => {
    const certificate = await certificateFor(peer.name);
    if (await folders.trust(peer)) logger.info({ peer: peer.name }, 'a peer is trusted');
    if (peer.spec.clientCertificate !== undefined) {
      try {
        const pair = await peerStore.readClientCertificate(peer, signal);
        if (pair.certificate !== certificate.pair?.certificate) certificate.take(pair);
      } catch (error) {
        signal.throwIfAborted();
        certificate.fail(toCertificateProblem(error));
      }
    } else {
      const state = options.reportOf(peer.name)?.state;
      if (state === 'failed') certificate.doubt();
      if (state === 'ready') certificate.believe();
      if (certificate.dueIn() === 0 && !busy.has(peer.name)) enrol(peer, certificate, signal);
    }
    const { pair } = certificate;
    if (pair !== undefined && (await folders.connect(peer, pair))) {
      logger.info({ peer: peer.name, endpoints: peer.spec.endpoints }, 'a peer is to be read');
    }
  };

  const reconcile = async (now: PeerListing, signal: AbortSignal): Promise<void> => {
    const next = judge(now);
    const isOther =
      next.size !== accepted.size || [...next.keys()].some((name) => !accepted.has(name));
    accepted = next;
    const present = new Set([...now.peers.keys(), ...now.problems.map(({ name }) => name)]);
    for (const name of await folders.names()) {
      // What cannot be read or is refused may still be meant: only what is gone goes.
      if (present.has(name)) continue;
      await folders.forget(name);
      certificates.delete(name);
      logger.info({ peer: name }, 'a peer was removed');
    }
    held = new Set();
    if (isOther) for (const callback of callbacks) callback();
    limitAnnouncements();
    for (const peer of next.values()) {
      try {
        await putInForce(peer, signal);
      } catch (error) {
        signal.throwIfAborted();
        logger.error({ peer: peer.name, err: error }, 'a peer cannot be put into force');
      }
    }
  };

  const limitAnnouncements = (): void => {
    const next = [...accepted].flatMap(([name, { spec }]) =>
      spec.networks === undefined ? [] : [[name, spec.networks] as const],
    );
    const text = JSON.stringify(next);
    if (text !== lists) announced.setLists(new Map(next));
    lists = text;
  };

  const situationOf = (name: ClusterName, objectProblem: string | undefined): PeerSituation => {
    const certificate = certificates.get(name);
    return {
      refusals: refusals.get(name) ?? [],
      isFormerInForce: accepted.has(name),
      objectProblem,
      hasCertificate: certificate?.pair !== undefined,
      certificateProblem: certificate?.problem,
      report: options.reportOf(name),
    };
  };
  const withTimes = (name: string, conditions: readonly PeerCondition[]) =>
    conditions.map((condition) => {
      const id = `${name} ${condition.type}`;
      const before = conditionTimes.get(id);
      const entry =
        before?.status === condition.status
          ? before
          : { status: condition.status, since: clock.now() };
      conditionTimes.set(id, entry);
      return { ...condition, since: entry.since };
    });
  const viewsOf = (now: PeerListing): PeerView[] => {
    const problems = new Map(now.problems.map((problem) => [problem.name, problem]));
    const views = [...now.peers.values()].map(({ peer, source }): PeerView => {
      const { name } = peer;
      const problem = problems.get(name)?.message;
      problems.delete(name);
      const situation = situationOf(name, problem);
      return {
        name,
        peer,
        source,
        conditions: withTimes(name, peerConditions(situation)),
        findings: [...situation.refusals, ...situationFindings(situation)],
        certificateNotAfter: certificates.get(name)?.notAfter,
      };
    });
    for (const { name, source, message } of problems.values()) {
      const condition = { status: false, reason: 'Unusable', message } as const;
      const conditions = withTimes(name, [{ type: 'Ready', ...condition }]);
      views.push({
        name,
        peer: undefined,
        source,
        conditions,
        findings: [],
        certificateNotAfter: undefined,
      });
    }
    return views.sort((a, b) => (a.name < b.name ? -1 : 1));
  };
  const writeStatuses = async (signal: AbortSignal): Promise<void> => {
    if (peerStore.writeStatus === undefined || listing === undefined) return;
    if (!options.writesStatus()) return;
    for (const { peer, conditions } of viewsOf(listing)) {
      if (peer === undefined) continue;
      const text = JSON.stringify([peer.uid, peer.generation, conditions]);
      if (writtenStatus.get(peer.name) === text) continue;
      try {
        await peerStore.writeStatus(peer, conditions, signal);
        writtenStatus.set(peer.name, text);
      } catch (error) {
        signal.throwIfAborted();
        logger.warn({ peer: peer.name, err: error }, 'the status of a peer cannot be written');
      }
    }
  };

  const follow = async (signal: AbortSignal): Promise<void> => {
    for await (const next of peerStore.watch(signal)) {
      listing = next;
      ring();
    }
  };
  /** Waits; whether the bell rang in that time, or before. */
  const rings = async (milliseconds: number): Promise<boolean> => {
    await bell.wait(milliseconds, clock);
    const rang = isRung;
    isRung = false;
    bell.clear();
    return rang;
  };
  const work = async (signal: AbortSignal): Promise<void> => {
    signal.addEventListener('abort', () => ring(), { once: true });
    let nextLookAt = Number.NEGATIVE_INFINITY;
    while (!signal.aborted) {
      const due = [...accepted.values()].flatMap(({ name, spec }) => {
        const certificate = certificates.get(name);
        const isAskedFor = spec.clientCertificate === undefined && !busy.has(name);
        return isAskedFor && certificate !== undefined ? [certificate.dueIn()] : [];
      });
      const untilLook = Math.max(LEAST_WAIT_MS, Math.min(nextLookAt - clock.monotonic(), ...due));
      const rang = await rings(Math.min(STATUS_EACH_MS, untilLook));
      if (signal.aborted || listing === undefined) continue;
      const isDue = rang || untilLook <= STATUS_EACH_MS;
      const taken = isDue ? rounds.begin() : undefined;
      try {
        if (isDue) {
          nextLookAt = clock.monotonic() + LOOK_EACH_MS;
          await reconcile(listing, signal);
        }
        await writeStatuses(signal);
      } catch (error) {
        if (signal.aborted) break;
        logger.error({ err: error }, 'peers cannot be put into force, it is tried again');
      }
      taken?.();
    }
    await Promise.all(enrolling);
  };

  return {
    trust: {
      isPeer(clusterName) {
        const names: Iterable<string> = listing === undefined ? held : accepted.keys();
        return [...names, ...held].includes(clusterName);
      },
      onChange: (callback) => void callbacks.push(callback),
    },
    enrolling: {
      keyHashOf(clusterName) {
        const peer = [...accepted.values()].find(({ name }) => name === clusterName);
        const hash = peer?.spec.clientKeyHash;
        return hash === undefined ? undefined : Buffer.from(hash, 'base64url').toString('hex');
      },
    },
    announced,
    get listing() {
      return listing;
    },
    get accepted() {
      return accepted;
    },
    get views() {
      return listing === undefined ? [] : viewsOf(listing);
    },
    certificateOf: (name) => certificates.get(name)?.pair,
    async settle(signal) {
      await peerStore.look(signal);
      await rounds.ask(signal);
    },
    async run(signal) {
      await Promise.all([follow(signal), work(signal)]);
    },
  };
}

function toCertificateProblem(error: unknown): CertificateProblem {
  const text = error instanceof Error ? error.message : String(error);
  const isUnknownThere = error instanceof PeeringError && error.code === 'half-connected';
  return { text, isUnknownThere };
}
