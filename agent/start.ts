import { readFileSync } from 'node:fs';
import { getHeapStatistics } from 'node:v8';
import { readEtcdClientConfig } from '../mesh/kvstore/client-config.ts';
import { createKvStatistics } from '../mesh/kvstore/measured-store.ts';
import { connectionReader } from '../mesh/remote/connection.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { createLogger } from '../mesh/runtime/log.ts';
import type { OptionValues } from '../mesh/runtime/options.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { parseClusterId } from '../mesh/wire/ids.ts';
import { trimMemory } from './datapath/bpf.ts';
import { findCgroupRoot } from './datapath/cgroup-root.ts';
import { openDatapath } from './datapath/datapath.ts';
import { createInterfaces } from './endpoints/interfaces.ts';
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
  await runAgent({
    own,
    nodeName: values.nodeName,
    nodeIps: values.nodeIps,
    etcdConfig: values.etcdConfig,
    clustermeshConfig: values.clustermeshConfig,
    stateDir: values.stateDir,
    socketPath: values.socketPath,
    policyDefaultLocalCluster: values.policyDefaultLocalCluster,
    version,
    openDatapath: () =>
      openDatapath({
        bpfRoot: values.bpfRoot,
        cgroupRoot: values.cgroupRoot ?? findCgroupRoot(),
        objectDir: values.objectDir ?? projectPath('dist/bpf'),
        tunnelDevice: values.tunnelDevice,
        tunnelPort: values.tunnelPort,
        clusterId: own.id,
        maxConnectedClusters: max,
        nodeIps: values.nodeIps,
        signal,
      }),
    interfaces: createInterfaces(),
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

/** Differs after each boot of the machine; empty where the kernel does not say. */
function readBootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    // The registry does not need it.
    return '';
  }
}
