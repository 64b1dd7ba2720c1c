/** A look at a peer over the network, before anything is changed and again when people ask: who answers there, and does it fit? */
import { X509Certificate } from 'node:crypto';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { parseUrl } from '../../mesh/kvstore/etcd-endpoint.ts';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import { findServerFault } from '../../mesh/runtime/certificate-words.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { lookAtServerDate } from '../../mesh/runtime/server-date.ts';
import { lookAtServer, type ServerLook } from '../../mesh/runtime/server-look.ts';
import { decodeClusterConfig } from '../../mesh/wire/cluster-config.ts';
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import { clusterConfigKey, nodesPrefix } from '../../mesh/wire/keys.ts';
import { decodeNode } from '../../mesh/wire/node.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import { parseBundle } from '../gate/certificate-chain.ts';
import type { NodeProber } from '../registry/node-prober.ts';
import type { MeshPeer } from './mesh-peer.ts';
import { type ClientPair, enrollmentPlaces, enrolWithPeer } from './peer-enrolment.ts';
import {
  findOverlaps,
  NO_NETWORKS,
  type OwnCluster,
  type PeerFinding,
  type PeerFindingId,
} from './peer-plan.ts';
import { addressesOfNodes, findReachFaults } from './peer-reach.ts';
import { PeeringError } from './peering-error.ts';
import type { ClientKey, PeeringKey } from './peering-key.ts';

/** Certificates begin five minutes before they were made: clocks that differ by more make them worthless. */
const MOST_CLOCK_DIFFERENCE_MS = 300_000;
const CLOCK_WARNING_MS = 30_000;
const CALL_TIMEOUT_MS = 5000;

/** What a look needs to know of us. */
export interface ProbeContext {
  readonly own: OwnCluster;
  /** PEM of the certificate of our own gate: whoever shows it is ourselves. */
  readonly ownCertificate: () => Promise<string>;
  /** What our own etcd calls itself. */
  readonly ownStoreId: () => string | undefined;
  readonly key: PeeringKey;
  /** The key that looks enrol with, one for all of them: what is certified by it is thrown away. */
  readonly client: ClientKey;
  /** What we show to the peer already, or what it has given to us; undefined: nothing, or not yet. */
  readonly readPair: () => Promise<ClientPair | undefined>;
  /** Of nodes of the peer, from who has asked it; what it lets us read itself comes before. */
  readonly nodeAddresses: readonly string[];
  /** Has nodes of ours look at those. */
  readonly askNodes: (question: Parameters<NodeProber['ask']>[0]) => ReturnType<NodeProber['ask']>;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

type Peer = Pick<MeshPeer, 'name' | 'spec'>;

/** Looks. Nothing is changed by it, here or there. Rejects when `signal` aborts, and for faults of our own alone. */
export async function probePeer(peer: Peer, context: ProbeContext): Promise<PeerFinding[]> {
  const [gates, enrolment, clock, held] = await Promise.all([
    probeGates(peer, context),
    probeEnrolment(peer, context),
    probeClock(peer, context),
    readHeld(context),
  ]);
  context.signal.throwIfAborted();
  const found = [...gates, ...enrolment.found, ...clock, ...held.found];
  const pair = enrolment.pair ?? held.pair;
  const isReachable = !found.some(({ severity }) => severity === 'refusal');
  // What cannot be reached or is not believed need not be read.
  let nodes: readonly string[] = context.nodeAddresses;
  if (pair !== undefined && isReachable) {
    const read = await probeEtcd(peer, { ...context, pair });
    found.push(...read.found);
    if (read.nodes.length > 0) nodes = read.nodes;
  }
  const isTaken = !found.some(({ severity }) => severity === 'refusal');
  if (isTaken) found.push(...(await probeNodes(peer, nodes, context)));
  return withoutTwins(found);
}

/** What only a node can tell: the control plane may take another way. */
async function probeNodes(
  { name, spec }: Peer,
  addresses: readonly string[],
  { own, askNodes }: ProbeContext,
): Promise<PeerFinding[]> {
  if (addresses.length === 0) return [];
  const { routingMode, tunnelPort } = spec.datapath;
  const udpPort = routingMode === 'native' ? undefined : (tunnelPort ?? own.datapath.tunnelPort);
  const sights = await askNodes({ addresses, udpPort });
  return findReachFaults({ peer: name, own: own.name, addresses, sights });
}

/** One endpoint that works is enough: what is wrong with the others is a warning then. */
async function probeGates(peer: Peer, context: ProbeContext): Promise<PeerFinding[]> {
  const { spec } = peer;
  const ownCertificate = new X509Certificate(await context.ownCertificate());
  const places = spec.endpoints.flatMap((url) => {
    const { host: name, port } = parseUrl(url);
    const alias = spec.hostAliases.find(({ hostname }) => hostname === name);
    const hosts = alias?.ips ?? [name];
    return hosts.map((host) => ({ url, name, host, port }));
  });
  const authorities = parseBundle(Buffer.from(spec.ca));
  const judged = await Promise.all(
    places.map(async (place): Promise<PeerFinding | undefined> => {
      const { signal } = context;
      const look = await lookAtServer({ ...place, signal });
      const where = place.host === place.name ? place.url : `${place.url} (${place.host})`;
      return judgeLook(look, {
        where,
        name: place.name,
        authorities,
        ownCertificate,
        ownName: context.own.name,
        now: context.clock.now(),
      });
    }),
  );
  const faults = judged.filter((fault) => fault !== undefined);
  const ourselves = faults.filter(({ id }) => id === 'peer-is-ourselves');
  if (ourselves.length > 0) return ourselves;
  const severity = faults.length < judged.length ? 'warning' : 'refusal';
  return faults.map((fault) => ({ ...fault, severity }));
}

function judgeLook(
  look: ServerLook,
  context: {
    readonly where: string;
    readonly name: string;
    readonly authorities: readonly X509Certificate[];
    readonly ownCertificate: X509Certificate;
    readonly ownName: string;
    readonly now: number;
  },
): PeerFinding | undefined {
  const { where, name, authorities, ownCertificate, ownName, now } = context;
  const [leaf] = look.chain;
  if (leaf === undefined) {
    const why = look.error ?? 'it shows no certificate';
    const isTls = /ssl|tls|wrong version|alert/i.test(why);
    return refusal(
      isTls ? 'peer-tls' : 'peer-unreachable',
      `${where} ${isTls ? 'does not speak TLS' : 'cannot be reached'}: ${why}`,
    );
  }
  if (leaf.fingerprint256 === ownCertificate.fingerprint256) {
    return refusal(
      'peer-is-ourselves',
      `${where} is this cluster, ${ownName}: it shows our own certificate`,
    );
  }
  const fault = findServerFault(look.chain, { authorities, host: name, now });
  return fault === undefined ? undefined : refusal('peer-tls', `${where}: its ${fault.text}`);
}

/** Enrols, and throws what it gets away where it is not used: the peer keeps nothing of it. */
async function probeEnrolment(
  peer: Peer,
  context: ProbeContext,
): Promise<{ found: PeerFinding[]; pair: ClientPair | undefined }> {
  const { own, key, client, signal } = context;
  if (peer.spec.enrollment.length === 0) return { found: [], pair: undefined };
  try {
    const said = await enrolWithPeer(peer, { ownName: own.name, key, client, signal });
    const found = findStranger(peer, {
      where: `the enrollment listener ${peer.spec.enrollment.join(', ')}`,
      own,
      name: said.clusterName,
      id: said.clusterId,
      max: said.maxConnectedClusters,
    });
    if (said.outcome.kind === 'enrolled') return { found, pair: said.outcome.pair };
    // Usual while the other side has not been told of us.
    if (found.length === 0) {
      found.push({ id: 'peer-half-connected', severity: 'warning', cause: said.outcome.details });
    }
    return { found, pair: undefined };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof PeeringError)) throw error;
    const id = error.code === 'unreachable' ? 'peer-unreachable' : 'peer-tls';
    return {
      found: [refusal(id, `the enrollment listener of ${peer.name}: ${error.message}`)],
      pair: undefined,
    };
  }
}

/** It may be put there after the MeshPeer, as a Secret is that something else makes. */
async function readHeld({
  readPair,
  signal,
}: ProbeContext): Promise<{ found: PeerFinding[]; pair: ClientPair | undefined }> {
  try {
    return { found: [], pair: await readPair() };
  } catch (error) {
    signal.throwIfAborted();
    const cause = error instanceof Error ? error.message : String(error);
    const missing = { id: 'own-certificate-missing', severity: 'warning', cause } as const;
    return { found: [missing], pair: undefined };
  }
}

async function probeClock(peer: Peer, { clock, signal }: ProbeContext): Promise<PeerFinding[]> {
  for (const place of enrollmentPlaces(peer)) {
    const theirs = await lookAtServerDate({ ...place, signal });
    if (theirs === undefined) continue;
    const difference = Math.round(theirs - clock.now());
    const size = Math.abs(difference);
    if (size < CLOCK_WARNING_MS) return [];
    const which = difference > 0 ? 'ahead of' : 'behind';
    const cause = `the clock of ${peer.name} is ${Math.round(size / 1000)} s ${which} ours (there ${new Date(theirs).toISOString()}, here ${new Date(clock.now()).toISOString()})`;
    const severity = size > MOST_CLOCK_DIFFERENCE_MS ? 'refusal' : 'warning';
    return [{ id: 'peer-clock', severity, cause }];
  }
  return [];
}

/** What its etcd says, and addresses of its nodes. */
async function probeEtcd(
  peer: Peer,
  context: ProbeContext & { readonly pair: ClientPair },
): Promise<{ readonly found: PeerFinding[]; readonly nodes: readonly string[] }> {
  const only = (...found: PeerFinding[]) => ({ found, nodes: [] });
  const { name, spec } = peer;
  const { own, pair, clock, signal } = context;
  const where = spec.endpoints.join(', ');
  try {
    await using store = await openEtcd({
      endpoints: spec.endpoints,
      tls: { ca: spec.ca, cert: pair.certificate, key: pair.privateKey },
      hostAliases: spec.hostAliases,
      callTimeoutMs: CALL_TIMEOUT_MS,
      clock,
    });
    const key = clusterConfigKey(name);
    const pairFound = await store.get(key, { signal });
    if (store.clusterId !== undefined && store.clusterId === context.ownStoreId()) {
      return only(
        refusal('peer-is-ourselves', `${where} is this cluster, ${own.name}: its etcd is our own`),
      );
    }
    if (pairFound === undefined) {
      return only(
        refusal(
          'peer-wrong-cluster',
          `${where} has no configuration of a cluster ${name}: another cluster answers there, or it has not published yet`,
        ),
      );
    }
    const { id, capabilities } = decodeClusterConfig(pairFound.value, key);
    const max = capabilities.maxConnectedClusters ?? 255;
    const found = findStranger(peer, { where, own, name, id, max });
    if (found.length > 0) return only(...found);
    const { pairs } = await store.list(nodesPrefix(name), { signal });
    const pods = podNetworks(pairs);
    const overlaps = findOverlaps({ name, networks: { ...NO_NETWORKS, pods } }, own).map((cause) =>
      refusal('peer-overlapping-networks', cause),
    );
    return { found: overlaps, nodes: addressesOfNodes(pairs) };
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof WireError) return only(refusal('peer-wrong-cluster', error.message));
    if (!(error instanceof KvError)) throw error;
    const isOurs = error.code === 'unauthenticated' || error.code === 'permission-denied';
    const id = isOurs ? 'own-certificate-refused' : 'peer-unreachable';
    return only(refusal(id, error.message));
  }
}

/** Whether who answers is the one that was meant, and of the same mesh. */
function findStranger(
  peer: Peer,
  seen: {
    readonly where: string;
    readonly own: OwnCluster;
    readonly name: string;
    readonly id: number;
    readonly max: number;
  },
): PeerFinding[] {
  const { where, own, name, id, max } = seen;
  if (name === own.name && peer.name !== own.name) {
    return [refusal('peer-is-ourselves', `${where} is this cluster, ${own.name}`)];
  }
  if (name !== peer.name) {
    return [refusal('peer-wrong-cluster', `${where} is of cluster ${name}, not of ${peer.name}`)];
  }
  if (id !== peer.spec.clusterId) {
    const cause = `${where} says that ${name} has cluster id ${id}, and the MeshPeer says ${peer.spec.clusterId}`;
    return [refusal('peer-wrong-cluster', cause)];
  }
  if (max !== own.maxConnectedClusters) {
    const cause = `${where} says that ${name} is of a mesh of ${max} clusters, ${own.name} is of one of ${own.maxConnectedClusters}`;
    return [refusal('peer-mesh-size', cause)];
  }
  return [];
}

function podNetworks(
  pairs: readonly { readonly key: string; readonly value: Buffer }[],
): IpPrefix[] {
  const found = new Set<IpPrefix>();
  for (const { key, value } of pairs) {
    try {
      const node = decodeNode(value, key);
      const { ipv4SecondaryAllocCidrs: second4, ipv6SecondaryAllocCidrs: second6 } = node;
      const all = [node.ipv4AllocCidr, node.ipv6AllocCidr, ...(second4 ?? []), ...(second6 ?? [])];
      for (const cidr of all) if (cidr !== null) found.add(cidr);
    } catch (error) {
      // One node that cannot be read is the mirror's to tell of.
      if (!(error instanceof WireError)) throw error;
    }
  }
  return [...found];
}

function refusal(id: PeerFindingId, cause: string): PeerFinding {
  return { id, severity: 'refusal', cause };
}

function withoutTwins(findings: readonly PeerFinding[]): PeerFinding[] {
  const seen = new Set<string>();
  return findings.filter(({ id, cause }) => {
    const text = `${id} ${cause}`;
    const isNew = !seen.has(text);
    seen.add(text);
    return isNew;
  });
}
