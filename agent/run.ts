import { mkdirSync } from 'node:fs';
import { openKnownPeers } from '../mesh/remote/known-peers.ts';
import { createMesh } from '../mesh/remote/mesh.ts';
import type { PeerConnection } from '../mesh/remote/peer.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import type { IpAddress } from '../mesh/wire/ip.ts';
import { listenApi, refuseSecondAgent } from './api/server.ts';
import { buildStatus, isReady, type RegistryReport, type StatusSources } from './api/status.ts';
import type { Datapath } from './datapath/desired.ts';
import { EndpointStoreError } from './endpoints/endpoint-error.ts';
import type { Interfaces } from './endpoints/interfaces.ts';
import { createEndpointManager } from './endpoints/manager.ts';
import { openEndpointStore } from './endpoints/store.ts';
import type { NodeSession } from './registry/session.ts';
import { createEngine } from './state/engine.ts';

/** A node's agent, put together. */
export interface AgentOptions {
  readonly own: {
    readonly name: ClusterName;
    readonly id: ClusterId;
    readonly max: MaxConnectedClusters;
  };
  readonly nodeName: string;
  readonly nodeIps: readonly IpAddress[];
  readonly etcdConfig: string;
  readonly clustermeshConfig: string | undefined;
  readonly stateDir: string;
  readonly socketPath: string;
  readonly policyDefaultLocalCluster: boolean;
  readonly version: string;
  /** Opened after the checks that harm nothing, and disposed of last. */
  readonly openDatapath: () => Promise<Datapath>;
  readonly interfaces: Interfaces;
  /** Makes a connection of an etcd client file. Throws an Error that says what is wrong with the file. */
  readonly readConnection: (path: string) => Promise<PeerConnection>;
  /** The stream to the own cluster's registry, where there is one. */
  readonly registry: Pick<NodeSession, 'run' | 'state' | 'describe'> | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/**
 * Runs an agent until `signal` aborts. Order: the state directory, the datapath with what an earlier process left in
 * it, the socket, and only then the clusters. Ending leaves the kernel as it is: traffic goes on.
 */
export async function runAgent(options: AgentOptions): Promise<void> {
  const { own, nodeName, nodeIps, registry, clock, logger, signal } = options;
  const node = { clusterId: own.id, clusterName: own.name, nodeName, nodeIps };
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
  const engine = createEngine({
    datapath,
    node,
    max: own.max,
    policyDefaultLocalCluster: options.policyDefaultLocalCluster,
    clock,
    logger,
  });
  const endpoints = createEndpointManager({
    store,
    interfaces: options.interfaces,
    datapath,
    engine,
    logger,
  });
  await endpoints.restore();
  const mesh = createMesh({
    context: { own, nodeIps, sink: engine, clock, logger },
    ownFile: options.etcdConfig,
    directory: options.clustermeshConfig,
    readConnection: options.readConnection,
    knownPeers: openKnownPeers(options.stateDir, logger),
    setPeers: (peers) => engine.setPeers(peers),
  });
  const sources: StatusSources = {
    node,
    version: options.version,
    startedAt: clock.now(),
    engine,
    mesh,
    endpoints,
    datapath,
    registry: () => registryReport(options.registry),
  };
  await using _api = await listenApi(options.socketPath, {
    status: () => buildStatus(sources),
    isReady: () => isReady(sources),
    datapath,
    endpoints,
    logger,
  });
  logger.info({ socket: options.socketPath }, 'agent is listening');
  await runTogether(signal, [
    (ending) => engine.run(ending),
    (ending) => mesh.run(ending),
    ...(registry === undefined ? [] : [(ending: AbortSignal) => registry.run(ending)]),
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
        await part(all);
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
