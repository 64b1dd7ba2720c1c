import { mkdirSync } from 'node:fs';
import type { KvStatistics } from '../mesh/kvstore/measured-store.ts';
import { createAnnounced, type PeerCidrMode } from '../mesh/remote/announced.ts';
import { openAnnouncedFile } from '../mesh/remote/announced-file.ts';
import { openKnownPeers } from '../mesh/remote/known-peers.ts';
import { createLagBook } from '../mesh/remote/lag.ts';
import { createMesh } from '../mesh/remote/mesh.ts';
import type { PeerConnection, PeerContext } from '../mesh/remote/peer.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import type { IpAddress } from '../mesh/wire/ip.ts';
import { describeService, type InspectSources } from './api/inspect-rows.ts';
import { createPolicyNodes, withPolicyNodes } from './api/policy-nodes.ts';
import { createPolicyView } from './api/policy-view.ts';
import { listenApi, refuseSecondAgent } from './api/server.ts';
import {
  buildStatus,
  policyReports,
  type RegistryReport,
  type StatusSources,
} from './api/status.ts';
import type { CniInstallation } from './cni/installation.ts';
import { createAttachmentKeeper } from './datapath/attachment-keeper.ts';
import type { Datapath } from './datapath/desired.ts';
import { createHostRouteKeeper } from './datapath/host-route-keeper.ts';
import { findKubeProxy } from './datapath/kube-proxy.ts';
import { createSocketEnd } from './datapath/socket-end.ts';
import { type NameBook, withNameBook } from './dns/name-book.ts';
import { createClusterPods, withClusterPods } from './endpoints/cluster-pods.ts';
import { createDiscovery } from './endpoints/discovery.ts';
import { EndpointStoreError } from './endpoints/endpoint-error.ts';
import type { Interfaces } from './endpoints/interfaces.ts';
import { watchLinks } from './endpoints/link-monitor.ts';
import { createEndpointManager } from './endpoints/manager.ts';
import { openOpenedPods } from './endpoints/opened-pods.ts';
import { openEndpointStore } from './endpoints/store.ts';
import { createHostFirewall, type HostFirewallOptions } from './host-firewall/host-firewall.ts';
import { createHostRanges, type HostRouteMode } from './merge/host-ranges.ts';
import type { DecidedServices } from './merge/service-rules.ts';
import { listenAgentMetrics } from './metrics/metrics-server.ts';
import { createReadiness } from './metrics/readiness.ts';
import { createAgentNames } from './monitor/agent-names.ts';
import {
  createMonitor,
  DEFAULT_MONITOR_SETTINGS,
  type MonitorSettings,
} from './monitor/monitor.ts';
import type { EnforcementMode } from './policy/enforcement-mode.ts';
import type { PolicyView } from './policy/trace-view.ts';
import { agentReportOf } from './registry/agent-reports.ts';
import type { NodeSession } from './registry/session.ts';
import { createAudit } from './state/audit.ts';
import { createEngine } from './state/engine.ts';
import { openFormerPolicies } from './state/former-policies.ts';
import { keepMemory, type MemoryKeeperOptions } from './state/memory-keeper.ts';
import { createDataPath } from './troubleshoot/data-path.ts';
import { askEcho } from './troubleshoot/echo.ts';
import { checkAgent } from './troubleshoot/self-check.ts';
import { callTcp } from './troubleshoot/tcp-call.ts';
import { createDrainService } from './withdrawal/drain-request.ts';
import { openDrains } from './withdrawal/drains.ts';
import { createKnownNodes, withKnownNodes } from './withdrawal/known-nodes.ts';
import { createWithdrawal, type WithdrawalOptions } from './withdrawal/withdrawal.ts';

/** Something that runs beside the agent's own parts. */
export interface AgentPart {
  run(signal: AbortSignal): Promise<void>;
  /** What a person should know, a sentence each. */
  problems(): readonly string[];
}

/** A node's agent, put together. */
export interface AgentOptions {
  readonly own: {
    readonly name: ClusterName;
    readonly id: ClusterId;
    readonly max: MaxConnectedClusters;
  };
  readonly nodeName: string;
  readonly nodeIps: readonly IpAddress[];
  /**
   * `machine`: this host is no node and has no pods. Its addresses have the identity that its cluster publishes for them, by
   * which policies select it as they do a pod. `openDatapath` must have been told the same. Default: a node.
   */
  readonly hostEndpoint?: 'machine' | undefined;
  readonly etcdConfig: string;
  readonly clustermeshConfig: string | undefined;
  readonly stateDir: string;
  readonly socketPath: string;
  readonly policyDefaultLocalCluster: boolean;
  /** Whether policies hold. Default: `default`, as they say. */
  readonly enforcement?: EnforcementMode | undefined;
  /** How long a pod sends under its former identity when it has got another one, in milliseconds. Default: not at all. */
  readonly identityGraceMs?: number | undefined;
  /** Entries of the policy map that one endpoint may have. Default: DEFAULT_POLICY_MAP_MAX of `policy-state.ts`. */
  readonly policyMapMax?: number | undefined;
  /** What would be denied passes and is told, of every endpoint. Default: false. */
  readonly policyAudit?: boolean | undefined;
  /** A pod's own node always reaches it. Default: true. */
  readonly allowLocalhost?: boolean | undefined;
  /** What programs of the node itself reach through the tunnel. Default: `peers`; of a machine `all`. */
  readonly hostRoutes?: HostRouteMode | undefined;
  /** Finds out which Services are translated here. Default: all of them, by their cluster addresses. */
  readonly decideServices?: (() => Promise<DecidedServices>) | undefined;
  readonly version: string;
  /** Opened after the checks that harm nothing, and disposed of last. */
  readonly openDatapath: () => Promise<Datapath>;
  readonly interfaces: Interfaces;
  /** Keeps our plugin in the node's CNI configuration. Default: that is somebody else's business. */
  readonly cni?: CniInstallation | undefined;
  /** Makes a connection of an etcd client file. Throws an Error that says what is wrong with the file. */
  readonly readConnection: (path: string) => Promise<PeerConnection>;
  /** The stream to the own cluster's registry, where there is one. */
  readonly registry: Pick<NodeSession, 'run' | 'state' | 'describe'> | undefined;
  /** Names of Services, to be kept up to date. Default: nobody asks for them. */
  readonly names?: NameBook | undefined;
  /** A machine's host policy, as it is stored. Default: this host has none. */
  readonly firewall?: Pick<HostFirewallOptions, 'stored' | 'places'> | undefined;
  /** What runs besides, for as long as the agent does; its problems are shown in the status. Default: nothing. */
  readonly besides?: readonly AgentPart[] | undefined;
  /** When backends of silent peers go, and how it is found out whether their nodes are there. */
  readonly withdrawal: Pick<WithdrawalOptions, 'mode' | 'ttlMs' | 'staleAfterMs' | 'probe'> &
    Pick<PeerContext, 'settleMs'>;
  /** How it is decided which addresses a peer may announce. Default: `learn`. */
  readonly peerCidrs?: PeerCidrMode;
  /** Where metrics and readiness are served. Default: nowhere. */
  readonly metricsAddress?: HostPort | undefined;
  /** What `clustermesh monitor` gets. Default: DEFAULT_MONITOR_SETTINGS. */
  readonly monitor?: MonitorSettings;
  /** How memory is measured and given back. Default: it is left to itself. */
  readonly memory?: Pick<MemoryKeeperOptions, 'nativeBytes' | 'release'>;
  /** Calls to etcd, for the metrics. Default: they are not counted. */
  readonly kvStatistics?: KvStatistics;
  /** How often the kernel is compared with what is wanted, in milliseconds. Default: five minutes. */
  readonly auditIntervalMs?: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/**
 * Runs an agent until `signal` aborts. Order: the state directory, the datapath with what an earlier process left in
 * it, the socket, and only then the clusters. Ending leaves the kernel as it is: traffic goes on.
 */
export async function runAgent(options: AgentOptions): Promise<void> {
  const { own, nodeName, nodeIps, registry, memory, clock, logger, signal } = options;
  const { hostEndpoint } = options;
  const node = { clusterId: own.id, clusterName: own.name, nodeName, nodeIps, hostEndpoint };
  const isMachine = hostEndpoint === 'machine';
  try {
    mkdirSync(options.stateDir, { recursive: true, mode: 0o755 });
  } catch (cause) {
    throw new EndpointStoreError(
      `cannot make ${options.stateDir}: ${cause instanceof Error ? cause.message : String(cause)}: give --state-dir a folder that the agent may write`,
      { cause },
    );
  }
  const store = openEndpointStore(options.stateDir);
  // Two agents on one datapath would undo each other's work: looked at before anything is touched.
  await refuseSecondAgent(options.socketPath);
  await using datapath = await options.openDatapath();
  const { upkeep } = datapath;
  const services = await options.decideServices?.();
  if (services !== undefined) {
    const { reason, problem } = services;
    if (problem === undefined) logger.info({ services: reason }, 'Services to translate are known');
    else logger.warn({ services: reason, problem }, 'Services to translate are known');
  }
  const lag = createLagBook(clock);
  const hostRoutes =
    datapath.hostRoutes === undefined
      ? undefined
      : createHostRouteKeeper({
          ranges: createHostRanges(node, options.hostRoutes ?? (isMachine ? 'all' : 'peers')),
          routes: datapath.hostRoutes,
          clock,
          logger,
        });
  const engine = createEngine({
    datapath,
    node,
    max: own.max,
    policyDefaultLocalCluster: options.policyDefaultLocalCluster,
    enforcement: options.enforcement,
    identityGraceMs: options.identityGraceMs,
    policyMapMax: options.policyMapMax,
    formerPolicies: openFormerPolicies(options.stateDir, logger),
    services: services?.rules,
    hostRoutes,
    onFlushed: () => lag.settle(),
    clock,
    logger,
  });
  const opened = openOpenedPods(options.socketPath);
  const endpoints = createEndpointManager({
    store,
    interfaces: options.interfaces,
    opened,
    datapath,
    engine,
    limits: () => readiness.detached(),
    logger,
  });
  await endpoints.restore();
  const nodes = createKnownNodes({ nodeIps, datapath, clock });
  const pods = createClusterPods(nodeIps);
  const policyNodes = createPolicyNodes();
  const discovery = createDiscovery({
    endpoints,
    pods,
    opened,
    interfaces: options.interfaces,
    isOwnRead: () => readiness.isOwnRead(),
    // Containers of a machine come and go by what their cluster has declared.
    releases: isMachine,
    clock,
    logger,
  });
  const drains = openDrains(options.stateDir, logger);
  const announced = createAnnounced({ own: own.name, mode: options.peerCidrs ?? 'learn' });
  const announcedFile = openAnnouncedFile(options.stateDir, { announced, clock, logger });
  const sink = withPolicyNodes(withClusterPods(withKnownNodes(engine, nodes), pods), policyNodes);
  const { names, besides = [] } = options;
  const mesh = createMesh({
    context: {
      own,
      nodeIps,
      sink: names === undefined ? sink : withNameBook(sink, names),
      ...options.withdrawal,
      announced,
      limits: { heldBackTtlMs: options.withdrawal.ttlMs },
      lag,
      clock,
      logger,
    },
    ownFile: options.etcdConfig,
    directory: options.clustermeshConfig,
    readConnection: options.readConnection,
    knownPeers: openKnownPeers(options.stateDir, logger),
    setPeers: (peers) => {
      engine.setPeers(peers);
      // Before anything of a new peer is read, it is known whether it is drained. Where none is, nothing is to be looked
      // at each time that one more of many peers says its id.
      if ([...peers.keys()].some((name) => drains.has(name))) withdrawal.touch();
    },
  });
  const withdrawal = createWithdrawal({
    ...options.withdrawal,
    mesh,
    setWithdrawn: (clusterId, level, how) => engine.setWithdrawn(clusterId, level, how),
    nodes,
    drains,
    clock,
    logger,
  });
  const audit = createAudit({
    tables: engine.audited,
    flush: () => engine.flush(),
    ...(options.auditIntervalMs === undefined ? {} : { intervalMs: options.auditIntervalMs }),
    clock,
    logger,
  });
  const readiness = createReadiness({
    mesh: () => mesh.status(),
    engine,
    datapath,
    hostInterfaces: () => endpoints.records().map(({ hostInterface }) => hostInterface),
    audited: () => audit.problems(),
    areRoutesBehind: hostRoutes?.isBehind,
    clock,
  });
  const socketEnd =
    datapath.orphans === undefined
      ? undefined
      : createSocketEnd({
          orphans: datapath.orphans,
          namespaces: () =>
            endpoints.records().flatMap(({ netns }) => (netns === '' ? [] : [netns])),
          isComplete: () => readiness.missing().length === 0,
          clock,
          logger,
        });
  const settings = options.monitor ?? DEFAULT_MONITOR_SETTINGS;
  const clusterNames = (): ReadonlyMap<number, string> =>
    new Map(
      mesh
        .status()
        .clusters.flatMap(({ clusterId, name }) =>
          clusterId === undefined ? [] : [[clusterId, name]],
        ),
    );
  const monitor = createMonitor({
    ...settings,
    events: datapath.events,
    names: createAgentNames({
      node: nodeName,
      max: own.max,
      engine,
      records: () => endpoints.records(),
      clusters: clusterNames,
      interfaceName: (ifindex) => datapath.events?.interfaceName(ifindex),
      clock,
    }),
    clock,
    logger,
  });
  const keeper = createAttachmentKeeper({
    datapath,
    hostInterfaces: () => endpoints.records().map(({ hostInterface }) => hostInterface),
    missing: () => readiness.missing(),
    clock,
    logger,
  });
  const firewall =
    options.firewall === undefined || datapath.firewall === undefined
      ? undefined
      : createHostFirewall({
          ...options.firewall,
          kernel: datapath.firewall,
          stateDir: options.stateDir,
          watchLinks: (ending) => watchLinks(ending, { clock, logger }),
          host: () =>
            engine.policyView.isReleased
              ? engine.status().endpoints.find(({ host }) => host !== undefined)
              : undefined,
          kernelNow: process.hrtime.bigint,
          clock,
          logger,
        });
  const sources: StatusSources = {
    node,
    version: options.version,
    startedAt: clock.now(),
    engine,
    mesh,
    endpoints: {
      ...endpoints,
      problems: () => [
        ...endpoints.problems(),
        ...discovery.problems(),
        ...keeper.problems(),
        ...(hostRoutes?.problems() ?? []),
        ...(options.cni?.problems() ?? []),
        ...besides.flatMap((part) => part.problems()),
      ],
    },
    readiness,
    withdrawal,
    audit: () => audit.status(),
    upkeep,
    decidedServices: services,
    registry: () => registryReport(options.registry),
    hostPolicy: firewall?.report,
  };
  const policyView = (): PolicyView =>
    createPolicyView({
      node,
      max: own.max,
      mode: options.enforcement ?? 'default',
      auditMode: options.policyAudit ?? false,
      allowLocalhost: options.allowLocalhost ?? true,
      engine,
      records: () => endpoints.records(),
      clusters: clusterNames,
      nodes: policyNodes,
      upkeep,
    });
  const inspection: InspectSources = {
    node,
    max: own.max,
    engine,
    mesh,
    nodes: policyNodes,
    records: () => endpoints.records(),
  };
  await using _api = await listenApi(options.socketPath, {
    status: () => buildStatus(sources),
    missing: () => readiness.missing(),
    datapath,
    endpoints,
    drain: createDrainService({ own: own.name, drains, mesh, withdrawal, clock, logger }),
    firewall,
    stream: { monitor, node: nodeName, queueSize: settings.queueSize, now: () => clock.now() },
    policies: {
      view: policyView,
      readOptions: {
        clusterName: own.name,
        defaultLocalCluster: options.policyDefaultLocalCluster,
      },
      setAudit: engine.setAudit,
      logger,
    },
    check: async () =>
      checkAgent(buildStatus(sources), { kubeProxy: await findKubeProxy(), now: clock.now() }),
    troubleshoot: {
      own,
      node: nodeName,
      directory: options.clustermeshConfig,
      status: () => buildStatus(sources),
      packets: createDataPath({
        nodesOf: (clusterId) => nodes.of(clusterId),
        rows: () => datapath.ipcache.rows(),
        records: () => endpoints.records(),
        view: policyView,
        accountOf: (name) => describeService(name, inspection),
        frontends: () => engine.frontends(),
        kernel: datapath.services,
        probe: options.withdrawal.probe,
        echo: askEcho,
        call: callTcp,
        clock,
      }),
      clock,
    },
    inspection,
    logger,
  });
  await using _metrics = await listenAgentMetrics(options.metricsAddress, {
    ...sources,
    mesh: () => mesh.status(),
    datapath,
    monitor,
    lag,
    kvStatistics: options.kvStatistics,
    logger,
  });
  logger.info({ socket: options.socketPath }, 'agent is listening');
  await runTogether(signal, [
    (ending) => engine.run(ending),
    (ending) => mesh.run(ending),
    (ending) => announcedFile.run(ending),
    (ending) => withdrawal.run(ending),
    (ending) => audit.run(ending),
    (ending) => keeper.run(ending),
    ...(hostRoutes === undefined
      ? []
      : [(ending: AbortSignal) => hostRoutes.run(engine.addresses, ending)]),
    ...(upkeep === undefined
      ? []
      : [(ending: AbortSignal) => upkeep.run({ clock, logger }, ending)]),
    (ending) => monitor.run(ending),
    ...(firewall === undefined ? [] : [firewall.run]),
    (ending) => discovery.run(ending),
    ...(socketEnd === undefined ? [] : [(ending: AbortSignal) => socketEnd.run(ending)]),
    ...(options.cni === undefined ? [] : [options.cni.run]),
    ...besides.map((part) => (ending: AbortSignal) => part.run(ending)),
    ...(memory === undefined
      ? []
      : [(ending: AbortSignal) => keepMemory({ ...memory, clock }, ending)]),
    ...(registry === undefined
      ? []
      : [
          (ending: AbortSignal) =>
            registry.run(ending, {
              // Half of the policies would look as if the others were gone.
              policies: () =>
                engine.policyView.isReleased
                  ? policyReports({ engine }, engine.status())
                  : undefined,
              report: () => agentReportOf(buildStatus(sources), isMachine ? 'machine' : 'node'),
            }),
        ]),
  ]);
  engine.flush();
  logger.info('agent ends, maps and links stay');
}

/** Runs parts until `signal` aborts or one of them fails, then ends them all. Throws the first failure. */
async function runTogether(
  signal: AbortSignal,
  parts: readonly ((signal: AbortSignal) => Promise<void>)[],
): Promise<void> {
  const ending = new AbortController();
  const all = AbortSignal.any([signal, ending.signal]);
  let failure: { readonly error: unknown } | undefined;
  await Promise.all(
    parts.map(async (part) => {
      try {
        // A signal of its own: a dozen listeners on one would look like a leak.
        await part(AbortSignal.any([all]));
      } catch (error) {
        if (!all.aborted) failure = { error };
      }
      ending.abort();
    }),
  );
  if (failure !== undefined) throw failure.error;
}

function registryReport(session: AgentOptions['registry']): RegistryReport | undefined {
  if (session === undefined) return undefined;
  const { kind } = session.state;
  return { text: session.describe(), healthy: kind === 'accepted' || kind === 'connecting' };
}
