import { mkdirSync, readFileSync } from 'node:fs';
import { getHeapStatistics } from 'node:v8';
import { readEtcdClientConfig } from '../mesh/kvstore/client-config.ts';
import { createKvStatistics } from '../mesh/kvstore/measured-store.ts';
import { connectionReader } from '../mesh/remote/connection.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { createLogger, type Logger, logLevelSteps } from '../mesh/runtime/log.ts';
import type { OptionValues } from '../mesh/runtime/options.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { parseClusterId } from '../mesh/wire/ids.ts';
import { createCniInstallation } from './cni/installation.ts';
import { pluginSettings } from './cni/plugin-settings.ts';
import { trimMemory } from './datapath/bpf.ts';
import { findCgroupRoot } from './datapath/cgroup-root.ts';
import { openDatapath } from './datapath/datapath.ts';
import { DEFAULT_OPEN_PORTS, MOST_OPEN_PORTS } from './datapath/host-settings.ts';
import { findKubeProxy } from './datapath/kube-proxy.ts';
import { lockFolder } from './datapath/lock.ts';
import { mapSizesOf } from './datapath/map-size-options.ts';
import { createNameBook } from './dns/name-book.ts';
import { createNameService, type NameService } from './dns/name-service.ts';
import { CLUSTERSET_DOMAIN } from './dns/names.ts';
import { EndpointStoreError } from './endpoints/endpoint-error.ts';
import { createInterfaces } from './endpoints/interfaces.ts';
import { type NodeAgent, openNodeAgent } from './enrollment/node-agent.ts';
import { openStoredFirewall } from './host-firewall/stored-firewall.ts';
import { type MachineAgent, openMachineAgent } from './machine/machine-agent.ts';
import { MACHINE_DNS_ADDRESS } from './machine/machine-options.ts';
import { decideServices } from './merge/service-rules.ts';
import type { RUN_OPTIONS } from './options.ts';
import { createNodeSession } from './registry/session.ts';
import { runAgent } from './run.ts';
import { probeNode } from './withdrawal/probe.ts';
import { lookAtNodes } from './withdrawal/reach.ts';

/** Runs an agent on the real kernel, etcd and clock, until `signal` aborts. */
export async function startAgent(
  values: OptionValues<typeof RUN_OPTIONS>,
  options: {
    readonly version: string;
    /** Is given what changes the level of the log by one step. */
    readonly onLogLevelAsked: (step: () => void) => void;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { version, signal } = options;
  const logger = createLogger('clustermesh-agent', { level: values.logLevel });
  options.onLogLevelAsked(logLevelSteps(logger, values.logLevel));
  using _lock = lockStateDir(values.stateDir);
  // Awaited here: the lock is held for as long as this function runs.
  if (!values.machine) {
    const node = nodeAgent(values, { version, logger });
    if (node === undefined) return await startParts(values, { version, logger, signal });
    return await node.run(
      (ending) => startParts(values, { version, logger, node, signal: ending }),
      signal,
    );
  }
  // Its state lies beside its key: nothing of it is for others than root.
  process.umask(0o077);
  const machine = openMachineAgent({
    stateDir: values.stateDir,
    instanceId: values.instanceId ?? readBootId(),
    clock: systemClock,
    logger,
  });
  await machine.run(
    (nodeIps, ending) =>
      startParts({ ...values, nodeIps }, { version, logger, machine, signal: ending }),
    signal,
  );
}

/** The node's own part of an agent that enrols; undefined: its certificates come by other ways. */
function nodeAgent(
  values: OptionValues<typeof RUN_OPTIONS>,
  { version, logger }: { readonly version: string; readonly logger: Logger },
): NodeAgent | undefined {
  const { enrollmentAddress: server, enrollmentTokenFile: tokenFile, stateDir, nodeName } = values;
  const { enrollmentTrustedCaFile: trustedCaFile, clusterName: name, clusterId: id } = values;
  if (server === undefined || tokenFile === undefined || trustedCaFile === undefined) {
    return undefined;
  }
  return openNodeAgent({
    stateDir,
    server,
    tokenFile,
    trustedCaFile,
    nodeName,
    cluster: { name, id },
    agentVersion: version,
    clock: systemClock,
    logger,
  });
}

async function startParts(
  values: OptionValues<typeof RUN_OPTIONS>,
  options: {
    readonly version: string;
    readonly logger: Logger;
    readonly machine?: MachineAgent;
    readonly node?: NodeAgent;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { version, logger, machine, node, signal } = options;
  const max = values.maxConnectedClusters;
  const own = { name: values.clusterName, id: parseClusterId(values.clusterId, max), max };
  const announced = {
    clusterName: own.name,
    nodeName: values.nodeName,
    agentVersion: version,
    // Networks of pods are the CNI's business; the registry takes them from the Node object.
    facts: { addresses: values.nodeIps, podCidrs: [], bootId: readBootId() },
    lookAtNodes,
    clock: systemClock,
    logger,
  };
  const session =
    values.registryAddress === undefined
      ? node?.session(announced)
      : createNodeSession({
          ...announced,
          registry: values.registryAddress,
          readTls: async () => (await readEtcdClientConfig(values.etcdConfig)).tls,
          serverName: machine?.record.serverName,
          machine: machine?.side,
          otherRegistries: machine?.record.registries.slice(1) ?? [],
        });
  const kvStatistics = createKvStatistics();
  const readConnection = connectionReader({
    clock: systemClock,
    statistics: kvStatistics,
    // Three questions fit into the time after which silence counts.
    progressIntervalMs: Math.min(10_000, values.peerStaleAfter / 3),
  });
  const nameService = createNames(values, logger);
  const firewall =
    machine &&
    (await openStoredFirewall({ ...values, record: machine.record, clock: systemClock }));
  const forgetRenewals = machine?.onRenewed(() => session?.reconnect());
  using _renewals = { [Symbol.dispose]: () => forgetRenewals?.() };
  await runAgent({
    own,
    nodeName: values.nodeName,
    nodeIps: values.nodeIps,
    hostEndpoint: values.machine ? 'machine' : undefined,
    etcdConfig: values.etcdConfig,
    clustermeshConfig: values.clustermeshConfig,
    stateDir: values.stateDir,
    socketPath: values.socketPath,
    policyDefaultLocalCluster: values.policyDefaultLocalCluster,
    enforcement: values.enablePolicy,
    identityGraceMs: values.identityChangeGracePeriod,
    policyMapMax: values.policyMapMax,
    policyAudit: values.policyAuditMode,
    allowLocalhost: values.allowLocalhost === 'always',
    hostRoutes: values.routingMode === 'native' ? 'off' : values.hostRoutes,
    decideServices: async () =>
      decideServices(
        {
          services: values.services,
          kubeProxyReplacement: values.kubeProxyReplacement,
          algorithm: values.lbAlgorithm,
        },
        await findKubeProxy(),
      ),
    version,
    openDatapath: async () => {
      const datapath = await openDatapath({
        bpfRoot: values.bpfRoot,
        cgroupRoot: values.cgroupRoot ?? findCgroupRoot(),
        objectDir: values.objectDir ?? projectPath('dist/bpf'),
        tunnelDevice: values.tunnelDevice,
        tunnelPort: values.tunnelPort,
        routingMode: values.routingMode,
        underlayMtu: values.mtu,
        overlaySourceCheck: values.overlaySourceCheck,
        conntrackTimeouts: {
          tcp: values.ctTimeoutTcp,
          tcpSyn: values.ctTimeoutTcpSyn,
          tcpFin: values.ctTimeoutTcpFin,
          any: values.ctTimeoutAny,
        },
        conntrackGcIntervalMs: values.conntrackGcInterval || undefined,
        mapSizes: {
          ...mapSizesOf(values, values.maglevTableSize),
          mesh_ct: values.ctMax,
          mesh_nat: values.natMax,
          mesh_events: values.monitorBufferBytes,
        },
        clusterId: own.id,
        maxConnectedClusters: max,
        nodeIps: values.nodeIps,
        hostEndpoint: values.machine ? 'machine' : undefined,
        firewall: firewall?.confirmed,
        openPorts: await openPortsOf(values),
        externalServices: values.kubeProxyReplacement,
        policyAudit: values.policyAuditMode,
        localhostJudged: values.allowLocalhost === 'policy',
        natPorts: values.natPorts,
        devices: values.devices,
        maglevTableSize: values.maglevTableSize,
        eventRate: { perSecond: values.eventsPerSecond, burst: values.eventsBurst },
        signal,
      });
      if (datapath.lost.length > 0) {
        logger.warn(
          { maps: datapath.lost },
          'what another version kept in these maps cannot be read and is forgotten',
        );
      }
      return datapath;
    },
    interfaces: createInterfaces({ clock: systemClock, logger }),
    cni:
      values.cniConfDir === undefined
        ? undefined
        : createCniInstallation({
            confDir: values.cniConfDir,
            binDir: values.cniBinDir,
            pluginFile: projectPath('dist/bin/clustermesh-cni'),
            settings: pluginSettings(values),
            clock: systemClock,
            logger,
          }),
    readConnection: async (path) => {
      const reason = node?.waitingFor;
      if (reason !== undefined) throw new Error(reason);
      return readConnection(path);
    },
    registry: session,
    names: nameService?.names,
    firewall,
    besides: [
      ...(nameService === undefined ? [] : [nameService]),
      ...(machine === undefined ? [] : [machine.part]),
      ...(node === undefined ? [] : [node.part]),
    ],
    withdrawal: {
      mode: values.withdraw,
      ttlMs: values.cacheTtl,
      staleAfterMs: values.peerStaleAfter,
      probe: probeNode,
    },
    peerCidrs: values.peerCidrs,
    metricsAddress: values.metricsAddress,
    monitor: {
      traceLevel: values.traceLevel,
      historySize: values.monitorHistory,
      queueSize: values.monitorQueueSize,
    },
    memory: {
      nativeBytes: () => process.memoryUsage.rss() - getHeapStatistics().total_heap_size,
      release: trimMemory,
    },
    kvStatistics,
    clock: systemClock,
    logger,
    signal,
  });
}

/** The resolver that the options ask for, not listening yet; undefined: none. */
function createNames(
  values: OptionValues<typeof RUN_OPTIONS>,
  logger: Logger,
): NameService | undefined {
  const address = values.dnsAddress ?? (values.machine ? MACHINE_DNS_ADDRESS : 'off');
  if (address === 'off') return undefined;
  return createNameService({
    address,
    domains: { cluster: values.dnsClusterDomain, set: CLUSTERSET_DOMAIN },
    names: createNameBook(),
    clock: systemClock,
    logger,
  });
}

/** TCP ports that no policy of this host closes: the usual ones of the mesh, and those that its own files name. */
async function openPortsOf({
  etcdConfig,
  registryAddress,
}: Pick<OptionValues<typeof RUN_OPTIONS>, 'etcdConfig' | 'registryAddress'>): Promise<number[]> {
  const named = registryAddress === undefined ? [] : [registryAddress.port];
  try {
    for (const endpoint of (await readEtcdClientConfig(etcdConfig)).endpoints) {
      const { port, protocol } = new URL(endpoint);
      named.push(port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port));
    }
  } catch {
    // Whoever connects by the file says what is wrong with it.
  }
  return [...new Set([...DEFAULT_OPEN_PORTS, ...named])].slice(0, MOST_OPEN_PORTS);
}

/** Two agents on one state directory would undo each other's work. Throws DatapathError `already-running`. */
function lockStateDir(folder: string): Disposable {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o755 });
  } catch (cause) {
    throw new EndpointStoreError(
      `cannot make ${folder}: ${cause instanceof Error ? cause.message : String(cause)}: give --state-dir a folder that the agent may write`,
      { cause },
    );
  }
  return lockFolder(folder);
}

/** Differs after each boot of the machine; empty where the kernel does not say. */
function readBootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    // The registry does not need it.
    return '';
  }
}
