import { mkdirSync, readFileSync } from 'node:fs';
import { getHeapStatistics } from 'node:v8';
import { readEtcdClientConfig } from '../mesh/kvstore/client-config.ts';
import { createKvStatistics } from '../mesh/kvstore/measured-store.ts';
import { connectionReader } from '../mesh/remote/connection.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { createLogger } from '../mesh/runtime/log.ts';
import type { OptionValues } from '../mesh/runtime/options.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { parseClusterId } from '../mesh/wire/ids.ts';
import { createCniInstallation } from './cni/installation.ts';
import { pluginSettings } from './cni/plugin-settings.ts';
import { trimMemory } from './datapath/bpf.ts';
import { findCgroupRoot } from './datapath/cgroup-root.ts';
import { openDatapath } from './datapath/datapath.ts';
import { findKubeProxy } from './datapath/kube-proxy.ts';
import { lockFolder } from './datapath/lock.ts';
import { mapSizesOf } from './datapath/map-size-options.ts';
import { EndpointStoreError } from './endpoints/endpoint-error.ts';
import { createInterfaces } from './endpoints/interfaces.ts';
import { decideServices } from './merge/service-rules.ts';
import type { RUN_OPTIONS } from './options.ts';
import { createNodeSession } from './registry/session.ts';
import { runAgent } from './run.ts';
import { probeNode } from './withdrawal/probe.ts';

/** Runs an agent on the real kernel, etcd and clock, until `signal` aborts. */
export async function startAgent(
  values: OptionValues<typeof RUN_OPTIONS>,
  options: { readonly version: string; readonly signal: AbortSignal },
): Promise<void> {
  const { version, signal } = options;
  const max = values.maxConnectedClusters;
  const logger = createLogger('clustermesh-agent', { level: values.logLevel });
  const own = { name: values.clusterName, id: parseClusterId(values.clusterId, max), max };
  const session =
    values.registryAddress === undefined
      ? undefined
      : createNodeSession({
          registry: values.registryAddress,
          readTls: async () => (await readEtcdClientConfig(values.etcdConfig)).tls,
          clusterName: own.name,
          nodeName: values.nodeName,
          agentVersion: version,
          // Networks of pods are the CNI's business; the registry takes them from the Node object.
          facts: { addresses: values.nodeIps, podCidrs: [], bootId: readBootId() },
          clock: systemClock,
          logger,
        });
  const kvStatistics = createKvStatistics();
  using _lock = lockStateDir(values.stateDir);
  await runAgent({
    own,
    nodeName: values.nodeName,
    nodeIps: values.nodeIps,
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
    readConnection: connectionReader({
      clock: systemClock,
      statistics: kvStatistics,
      // Three questions fit into the time after which silence counts.
      progressIntervalMs: Math.min(10_000, values.peerStaleAfter / 3),
    }),
    registry: session,
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
