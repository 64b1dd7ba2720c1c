/** An apiserver, put together. */
import { hostname } from 'node:os';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { createKvStatistics } from '../mesh/kvstore/measured-store.ts';
import { connectionReader } from '../mesh/remote/connection.ts';
import { createLagBook } from '../mesh/remote/lag.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import { listenHealthServer } from '../mesh/runtime/health-server.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import { describeParts, missingParts, type Parts } from './apiserver-parts.ts';
import { createBooks } from './books.ts';
import type { KubernetesSettings } from './cluster-source.ts';
import type { ConversionOptions } from './convert/cluster-model.ts';
import { followTlsFiles } from './etcd/follow-tls-files.ts';
import { listenGate } from './gate/gate.ts';
import type { TrustFiles } from './gate/trust.ts';
import { type ControllersSettings, createKubernetesControllers } from './kubernetes-controllers.ts';
import {
  createKvstoremesh,
  type KvstoremeshOptions,
  startKvstoremesh,
} from './kvstoremesh/kvstoremesh.ts';
import { openMeshDesk } from './mesh-desk.ts';
import { listenApiserverMetrics } from './metrics-server.ts';
import { openPeering } from './open-peering.ts';
import { type EtcdSettings, openStore } from './open-store.ts';
import { claimCluster, claimOwnManifests } from './own-claims.ts';
import type { PeeringSettings } from './peering-options.ts';
import { checkKubernetes, checkManifests, checkServerFiles } from './preflight.ts';
import { type PublishedCluster, publishCluster, type SourceSettings } from './publish-cluster.ts';
import { readersMayCome } from './readers-may-come.ts';
import { createBackups } from './registry/backup.ts';
import { openIssuingAuthority } from './registry/certificate-authority.ts';
import { type EnrollmentSettings, openEnrollmentOffice } from './registry/enrollment-office.ts';
import { machineOfPolicyName } from './registry/machine-session.ts';
import { createMirroredPeers } from './registry/mirrored-peers.ts';
import { nodeOffer } from './registry/node-enrollment-offer.ts';
import { createNodeProber } from './registry/node-prober.ts';
import { createPolicyBoard, type PolicyBoard } from './registry/policy-board.ts';
import { listenRegistry } from './registry/registry.ts';

/** An apiserver as its command line describes it. Times are in milliseconds where the name does not say otherwise. */
export interface ApiserverOptions {
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** Directory of Kubernetes YAML; undefined: `kubernetes` says where the cluster's objects come from. */
  readonly manifests: string | undefined;
  /** The API server that the cluster is read from. */
  readonly kubernetes?: KubernetesSettings | undefined;
  /** What is written to Kubernetes. Default: Events about annotations alone. */
  readonly controllers?: ControllersSettings | undefined;
  /** How pods and namespaces are looked at. Default: as Cilium does by default. */
  readonly conversion?: Pick<ConversionOptions, 'labelFilter' | 'globalNamespacesByDefault'>;
  /** Name of this replica among its like. Default: the machine's name. */
  readonly replica?: string | undefined;
  /** Certificate of gate and registry, and whom they believe. */
  readonly files: TrustFiles;
  readonly etcd: EtcdSettings;
  /** Mirrors the peers of a directory into the same etcd. Default: does not. */
  readonly kvstoremesh?:
    | Pick<KvstoremeshOptions, 'directory' | 'perClusterReadyTimeoutMs' | 'globalReadyTimeoutMs'>
    | undefined;
  /** Folder of the peers' files, for whoever asks about peers. Default: that of `kvstoremesh`. */
  readonly clustermeshConfig?: string | undefined;
  /** Peers that are declared; their folders are those of `files` and `kvstoremesh`. Default: none are. */
  readonly peering?: PeeringSettings | undefined;
  readonly gateAddress: HostPort;
  readonly registryAddress: HostPort;
  readonly healthAddress: HostPort;
  /** Where metrics are served. Default: nowhere. */
  readonly metricsAddress?: HostPort | undefined;
  readonly leaseTtlSeconds: number;
  readonly heartbeatMs: number;
  readonly identityGraceMs: number;
  readonly nodeSessionGraceMs: number;
  /** How long a machine's addresses stay after its session has ended. Default 60,000. */
  readonly vmSessionGraceMs?: number | undefined;
  /** How machines enrol. Default: none can. */
  readonly enrollment?: EnrollmentSettings | undefined;
  /** Called once, when everything has been published for the first time. */
  readonly onPublished?: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/**
 * Runs an apiserver until `signal` aborts: checks, health, etcd, everything published, and only then the gate and the
 * registry. Ending leaves every key where it is, on a lease that the next start takes over. Rejects with an error that
 * has a `code` and says what to do, when it cannot start.
 */
export async function runApiserver(options: ApiserverOptions): Promise<void> {
  const { logger, signal } = options;
  const source = await checkSource(options);
  await checkServerFiles(options.files);
  await checkAuthority(options);
  if (signal.aborted) return;
  const parts: Parts = {
    labelledMachines: new Set(),
    lag: createLagBook(options.clock),
    kvStatistics: createKvStatistics(),
  };
  await using _health = await listenHealthServer(options.healthAddress, {
    flag: '--health-address',
    sources: {
      missing: () => missingParts(parts),
      status: () => describeParts(options.cluster, parts),
      pages:
        options.kvstoremesh === undefined
          ? {}
          : { '/cluster': () => parts.mirror?.describePeers() ?? [] },
    },
  });
  await using _metrics = await listenApiserverMetrics(options.metricsAddress, {
    cluster: options.cluster.name,
    maxConnectedClusters: options.maxConnectedClusters,
    missing: () => missingParts(parts),
    published: () => parts.published?.publisher.status,
    queueTimes: () => parts.published?.publisher.queueTimes,
    manifestProblems: () => parts.published?.problems.length ?? 0,
    kubernetes: options.kubernetes === undefined ? undefined : () => parts.kubernetes?.(),
    controllers: options.controllers === undefined ? undefined : () => parts.controllers,
    gate: () => parts.gate?.status,
    enrollment: options.enrollment === undefined ? undefined : () => parts.enrollment?.status,
    etcd: () => parts.etcd?.state,
    mirror:
      options.kvstoremesh === undefined
        ? undefined
        : { mirror: () => parts.mirror, lag: parts.lag },
    kvStatistics: parts.kvStatistics,
    clock: options.clock,
    logger,
  });
  try {
    await runParts(options, { source, parts });
  } catch (error) {
    // Asked to end while starting: what then fails is of no interest.
    if (!signal.aborted) throw error;
  }
  logger.info('apiserver has ended, what it published stays until its lease runs out');
}

async function runParts(
  options: ApiserverOptions,
  { source, parts }: { readonly source: SourceSettings; readonly parts: Parts },
): Promise<void> {
  const { cluster, files, clock, logger, signal } = options;
  await using claim = await claimOwnManifests(options, source);
  await using etcd = await openStore(options, parts.kvStatistics);
  if (etcd.embedded !== undefined) parts.etcd = etcd.embedded;
  const { store } = etcd;
  const replica = options.replica ?? hostname();
  await using published = await publishCluster(source, {
    store,
    leaseTtlSeconds: options.leaseTtlSeconds,
    cluster,
    maxConnectedClusters: options.maxConnectedClusters,
    conversion: options.conversion ?? {},
    replica,
    onProgress: (look) => {
      parts.kubernetes = look;
    },
    heartbeatMs: options.heartbeatMs,
    identityGraceMs: options.identityGraceMs,
    prepare: (publisher, ending) => {
      const { book, machines } = createBooks({ ...options, store, publisher });
      parts.book = book;
      parts.machines = machines;
      return Promise.all([book.load(ending), machines.load(ending)]).then(() => {
        parts.areMachinesLoaded = true;
      });
    },
    clock,
    logger,
    signal,
  });
  parts.published = published;
  // Never published: then it ends, and says why elsewhere.
  published.ready.then(options.onPublished, () => undefined);
  const isHere = (subject: string): boolean => {
    const machine = machineOfPolicyName(subject);
    const state =
      machine === undefined ? parts.book?.stateOf(subject) : parts.machines?.get(machine)?.state;
    return state === 'connected' || state === 'gone';
  };
  const policies = createPolicyBoard({ store, isHere, clock, logger });
  parts.policies = policies;
  const writing = startWriting(options, { published, parts, policies, replica, store });
  // Awaited with everything else below, when all of it has been started.
  writing.catch(() => undefined);
  await using clusterClaim = claimCluster(options, { published, replica });
  await readersMayCome(published, options);
  await clusterClaim.settled;
  const { book, machines } = parts;
  if (book === undefined || machines === undefined) {
    throw new Error('the books of nodes and machines are made before anything is published');
  }
  const peers = createMirroredPeers({
    store,
    isExpected: options.kvstoremesh !== undefined,
    clock,
  });

  const prober = createNodeProber({ clock });
  const { peering: peeringOptions } = options;
  const peering =
    peeringOptions === undefined
      ? undefined
      : await openPeering({
          ...options,
          settings: peeringOptions,
          api: published.kubernetes?.api,
          store,
          surroundings: {
            gate: () => parts.gate?.address,
            enrollment: () => parts.enrollment?.status?.address,
            mirror: () => parts.mirror,
            podNetworks: published.publisher.podNetworks,
            prober,
          },
        });
  if (peering !== undefined) parts.peering = peering;

  await using gate = await listenGate({
    ...files,
    address: options.gateAddress,
    clusterName: cluster.name,
    upstream: etcd.upstream,
    machines: machines.trust,
    nodes: published.kubernetes?.nodes.trust,
    peers: peering?.trust,
    clock,
    logger,
    signal,
  });
  parts.gate = gate;
  const closedBecause = published.mode === 'cilium' ? NO_MACHINES_WITH_CILIUM : undefined;
  await using enrollment = await openEnrollmentOffice({
    settings: options.enrollment,
    notOffered: closedBecause,
    labelledMachines: parts.labelledMachines,
    peers: peering?.enrolling,
    nodes: nodeOffer(published, { account: options.enrollment?.serviceAccount, logger }),
    store,
    machines,
    files,
    cluster,
    maxConnectedClusters: options.maxConnectedClusters,
    clock,
    logger,
    signal,
  });
  const { upstream } = etcd;
  await using desk = openMeshDesk({ ...options, replica, parts, store, upstream, isHere });
  await using registry = await listenRegistry({
    address: options.registryAddress,
    agents: desk.agents,
    prober,
    moreAdmin: { ...desk.methods, ...peering?.admin },
    admin: enrollment.admin,
    renewal: enrollment.renewal,
    backups: createBackups({
      store,
      cluster,
      maxConnectedClusters: options.maxConnectedClusters,
      clock,
      logger,
    }),
    files,
    clusterName: cluster.name,
    book,
    nodes: published.kubernetes?.nodes.trust,
    policies,
    machines: {
      book: machines,
      sources: {
        checksOf: published.publisher.checksOf,
        checksRevision: () => published.publisher.checksRevision,
        peers: () => peers.names,
      },
      closedBecause,
    },
    clock,
    logger,
    signal,
  });
  parts.registry = registry;
  await enrollment.listen({
    gate: gate.address,
    registry: registry.address,
    podNetworks: published.publisher.podNetworks,
  });
  parts.enrollment = enrollment;
  const renewing = renewEtcdTls(options, [etcd.renewTls, gate.renewUpstreamTls, desk.renewTls]);
  logger.info(
    { cluster: cluster.name, gate: gate.address, registry: registry.address },
    'apiserver is ready',
  );
  if (options.kvstoremesh === undefined) {
    await Promise.all([
      published.ended,
      book.run(signal),
      machines.run(signal),
      published.kubernetes?.nodes.run(signal),
      enrollment.run(signal),
      peers.run(signal),
      policies.run(signal),
      desk.agents.run(signal),
      renewing,
      claim.ended,
      clusterClaim.ended,
      writing,
    ]);
    return;
  }
  const mirror = createKvstoremesh({
    ...options.kvstoremesh,
    store,
    own: { ...cluster, max: options.maxConnectedClusters },
    readConnection: connectionReader({ clock }),
    leaseTtlSeconds: options.leaseTtlSeconds,
    lag: parts.lag,
    announced: peering?.announced,
    clock,
    logger: logger.child({ part: 'kvstoremesh' }),
  });
  parts.mirror = mirror;
  await using mirroring = startKvstoremesh(mirror, signal);
  await Promise.all([
    published.ended,
    book.run(signal),
    machines.run(signal),
    published.kubernetes?.nodes.run(signal),
    enrollment.run(signal),
    peers.run(signal),
    policies.run(signal),
    desk.agents.run(signal),
    mirroring.ended,
    peering?.run(signal),
    renewing,
    claim.ended,
    clusterClaim.ended,
    writing,
  ]);
}

/** Writes to Kubernetes what is to be written there: Events, and what the controllers make of the peers' data. */
async function startWriting(
  options: ApiserverOptions,
  context: {
    readonly published: PublishedCluster;
    readonly parts: Parts;
    readonly policies: PolicyBoard;
    readonly replica: string;
    readonly store: KvStore;
  },
): Promise<void> {
  const { published, parts, policies, replica, store } = context;
  const { cluster, maxConnectedClusters, clock, logger, signal } = options;
  if (published.kubernetes === undefined) return;
  const { events } = published.kubernetes;
  const controllers =
    options.controllers === undefined
      ? undefined
      : createKubernetesControllers(options.controllers, {
          published,
          cluster,
          maxConnectedClusters,
          namespacesAreGlobal: options.conversion?.globalNamespacesByDefault ?? true,
          replica,
          ownStoreId: () => store.clusterId,
          policies,
          machines: () => (parts.areMachinesLoaded === true ? parts.machines : undefined),
          labelledMachines: parts.labelledMachines,
          clock,
          logger,
        });
  if (controllers !== undefined) parts.controllers = controllers;
  await Promise.all([events.run(signal), controllers?.run(signal)]);
}

/** Why a cluster that Cilium runs has no machines. */
const NO_MACHINES_WITH_CILIUM =
  'machines cannot join a cluster that Cilium runs: it alone gives out the identities there; join them to a cluster of mode any-cni or to one without Kubernetes';

/** Throws RegistryError `file` when the authority that is to sign machines cannot: better now than when all else is up. */
async function checkAuthority(options: ApiserverOptions): Promise<void> {
  const { enrollment, files, clock, logger, signal } = options;
  if (enrollment === undefined) return;
  const { caCertFile: certFile, caKeyFile: keyFile, certificateTtlMs: ttlMs } = enrollment;
  const { ownCaFile } = files;
  await using _authority = await openIssuingAuthority(
    { certFile, keyFile, ownCaFile },
    { ttlMs, clock, logger, signal },
  );
}

/** Where the objects come from, checked as far as it can be before anything is started. */
async function checkSource(options: ApiserverOptions): Promise<SourceSettings> {
  const { manifests, kubernetes } = options;
  if (kubernetes !== undefined) {
    await checkKubernetes(kubernetes, options.clock);
    return { kind: 'kubernetes', ...kubernetes };
  }
  if (manifests === undefined) throw new Error('an apiserver has manifests or an API server');
  await checkManifests(manifests);
  return { kind: 'manifests', directory: manifests };
}

/** Shows etcd what its files hold now, whenever they change. */
async function renewEtcdTls(
  options: ApiserverOptions,
  users: readonly ((tls: EtcdTls) => void)[],
): Promise<void> {
  const { etcd, clock, logger, signal } = options;
  if (etcd.kind !== 'external' || etcd.tlsFiles === undefined) return;
  await followTlsFiles(etcd.tlsFiles, {
    use: (tls) => {
      for (const use of users) use(tls);
    },
    clock,
    logger,
    signal,
  });
}
