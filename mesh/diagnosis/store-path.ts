/** What a peer's etcd lets us read, and whether it is the cluster that it should be. */
import { openEtcd } from '../kvstore/etcd.ts';
import type { EtcdTls, HostAlias } from '../kvstore/etcd-endpoint.ts';
import { KvError, type KvStore } from '../kvstore/kvstore.ts';
import { isOwnStore, leadsToOurselves } from '../remote/own-store.ts';
import { explainFailure } from '../remote/peer-error.ts';
import type { Clock } from '../runtime/clock.ts';
import { type ClusterConfig, decodeClusterConfig } from '../wire/cluster-config.ts';
import {
  type ClusterId,
  type ClusterName,
  type MaxConnectedClusters,
  parseClusterName,
} from '../wire/ids.ts';
import {
  clusterConfigKey,
  HEARTBEAT_KEY,
  identitiesPrefix,
  ipsPrefix,
  meshPeerKey,
  nodesPrefix,
  servicesPrefix,
  syncedPrefix,
} from '../wire/keys.ts';
import { decodePeerReport } from '../wire/peer-report.ts';
import { WireError } from '../wire/wire-error.ts';
import { problemOf } from './problem.ts';
import type { ProblemId } from './problems.ts';
import type { StepList, StepResult } from './step-list.ts';

const CALL_TIMEOUT_MS = 4_000;
/** Name that every server of a cluster has (Cilium, `clustermesh-apiserver` certificates). */
const CLUSTER_NAME = /^([^.]+)\.mesh\.cilium\.io$/;
/** Cilium writes a heartbeat each minute; one is missed in any failover. */
const SILENT_MS = 180_000;

/** Who we are, for what a peer must not be. */
export interface OwnCluster {
  readonly name: ClusterName;
  readonly id: ClusterId;
  readonly max: MaxConnectedClusters;
}

/** What a look at a store is given. */
export interface StorePathOptions {
  readonly peer: string;
  readonly endpoints: readonly string[];
  readonly hostAliases: readonly HostAlias[];
  readonly tls: EtcdTls | undefined;
  /** Undefined: it is not known whose certificates these are. */
  readonly own: OwnCluster | undefined;
  /** Cluster id that the peer had before; undefined: none is known. */
  readonly knownId: number | undefined;
  /** Names in the certificate of its server. */
  readonly serverNames: readonly string[];
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** Adds the steps `etcd`, `cluster`, `publisher`, `data` and `back`. */
export async function followStore(list: StepList, options: StorePathOptions): Promise<void> {
  if (list.hasFailed) {
    for (const step of ['etcd', 'cluster', 'publisher', 'data', 'back']) {
      await list.next(step, () => ({ seen: [] }));
    }
    return;
  }
  const { endpoints, hostAliases, tls, clock } = options;
  await using store = await openEtcd({
    endpoints,
    hostAliases,
    ...(tls === undefined ? {} : { tls }),
    callTimeoutMs: CALL_TIMEOUT_MS,
    clock,
  });
  const look = { ...options, store };
  let config: ClusterConfig | undefined;
  await list.next('etcd', async () => {
    const { found, result } = await readConfig(look);
    config = found;
    return result;
  });
  await list.next('cluster', () => judgeConfig(config, look));
  const cached = config?.capabilities.cached === true;
  await list.next('publisher', () =>
    guarded(look, () => (cached ? lookAtMirror(look) : lookAtHeartbeat(look))),
  );
  await list.next('data', () => guarded(look, () => lookAtData(look, { cached })));
  await list.next('back', () => guarded(look, () => (cached ? NOT_FROM_HERE : lookBack(look))));
}

type Look = StorePathOptions & { readonly store: KvStore };

async function readConfig(
  look: Look,
): Promise<{ found: ClusterConfig | undefined; result: StepResult }> {
  const { peer, store, signal } = look;
  const key = clusterConfigKey(parseClusterName(peer));
  try {
    const pair = await store.get(key, { signal });
    const name = store.clusterId === undefined ? '' : `etcd ${store.clusterId}, `;
    if (pair !== undefined) {
      return {
        found: decodeClusterConfig(pair.value, key),
        result: {
          seen: [
            `${name}it lets us in, its configuration is ${pair.value.toString('utf8').slice(0, 300)}`,
          ],
        },
      };
    }
    return { found: undefined, result: await explainMissing(look) };
  } catch (error) {
    const stranger = strangerByName(look, error);
    return { found: undefined, result: stranger ?? failedCall(look, error) };
  }
}

/** A gate shows nobody's configuration but its own: whose it is then, its certificate says. */
function strangerByName({ peer, own, serverNames }: Look, error: unknown): StepResult | undefined {
  if (!(error instanceof KvError) || error.code !== 'permission-denied') return undefined;
  // Beside its own name our servers bear one for all clusters, `*`.
  const clusters = serverNames.flatMap((name) => CLUSTER_NAME.exec(name)?.[1] ?? []);
  const [other] = clusters.filter((name) => name !== '*');
  if (other === undefined || clusters.includes(peer)) return undefined;
  const seen = [`its server has a certificate for ${serverNames.join(', ')}`];
  const subject = `peer ${peer}`;
  const values = { peer };
  if (other === own?.name) {
    const cause = `its endpoint leads to our own cluster, ${other}`;
    return { seen, problem: problemOf('peer-is-ourselves', { subject, cause, values }) };
  }
  const cause = `its endpoint is that of cluster ${other}, not of ${peer}`;
  return { seen, problem: problemOf('peer-wrong-cluster', { subject, cause, values }) };
}

/** Why a store that answers knows nothing of the peer. */
async function explainMissing(look: Look): Promise<StepResult> {
  const { peer, store, own, signal } = look;
  const subject = `peer ${peer}`;
  const values = { peer };
  const seen = [`it lets us in, and has no configuration of a cluster ${peer}`];
  if (own !== undefined && (await isOwnStore(store, { own }, signal))) {
    const cause = leadsToOurselves(parseClusterName(peer));
    return { seen, problem: problemOf('peer-is-ourselves', { subject, cause, values }) };
  }
  const others = await otherClusters(look);
  if (others.length > 0) {
    const cause = `its endpoint is that of cluster ${others.join(', ')}, not of ${peer}`;
    return { seen, problem: problemOf('peer-wrong-cluster', { subject, cause, values }) };
  }
  if (look.knownId !== undefined) {
    const cause = `its etcd has lost what it had: cluster ${peer}, id ${look.knownId}, was read from it before; it was replaced or emptied, and nobody has published since`;
    const problem = problemOf('peer-store-replaced', { subject, cause, values });
    // Where it publishes again this passes by itself; here it has not.
    return { seen, problem: { ...problem, severity: 'error' } };
  }
  return { seen, problem: problemOf('peer-config-missing', { subject, values }) };
}

/** Clusters whose configuration we may read there, ourselves left out; empty also where it does not let us ask. */
async function otherClusters({ store, own, signal }: Look): Promise<string[]> {
  const prefix = 'cilium/cluster-config/';
  try {
    const { pairs } = await store.list(prefix, { signal });
    return pairs
      .filter(({ key, value }) => !decodeClusterConfig(value, key).capabilities.cached)
      .map(({ key }) => key.slice(prefix.length))
      .filter((name) => name !== own?.name);
  } catch {
    return [];
  }
}

function judgeConfig(config: ClusterConfig | undefined, look: Look): StepResult {
  const { peer, own, knownId } = look;
  const subject = `peer ${peer}`;
  if (config === undefined) return { seen: [], isSkipped: true };
  const max = config.capabilities.maxConnectedClusters ?? 255;
  const seen = [
    `it says that it is cluster ${peer}, id ${config.id}, of a mesh of ${max}`,
    ...(own === undefined
      ? []
      : [`we are cluster ${own.name}, id ${own.id}, of a mesh of ${own.max}`]),
  ];
  const fail = (id: ProblemId, cause: string): StepResult => ({
    seen,
    problem: problemOf(id, { subject, cause, values: { peer } }),
  });
  if (config.id === 0) return fail('peer-config-refused', 'it does not tell its cluster id');
  if (own !== undefined && config.id === own.id) {
    return fail('peer-same-id', `it has our own cluster id, ${own.id}`);
  }
  if (own !== undefined && max !== own.max) {
    return fail(
      'peer-mesh-size',
      `it is of a mesh of ${max} clusters, we are of one of ${own.max}`,
    );
  }
  if (knownId !== undefined && config.id !== knownId) {
    return fail('peer-id-changed', `it has cluster id ${config.id}, and had ${knownId} before`);
  }
  return { seen };
}

async function lookAtHeartbeat({ peer, store, clock, signal }: Look): Promise<StepResult> {
  const pair = await store.get(HEARTBEAT_KEY, { signal });
  if (pair === undefined) {
    return { seen: ['it has no heartbeat: who publishes it is not known'], isSkipped: true };
  }
  const at = Date.parse(pair.value.toString('utf8'));
  if (Number.isNaN(at)) return { seen: ['its heartbeat holds no time'], isSkipped: true };
  const age = clock.now() - at;
  const seen = [
    `its heartbeat is of ${new Date(at).toISOString()}, ${Math.round(age / 1000)} s ago by our clock`,
  ];
  if (age <= SILENT_MS) return { seen };
  const problem = problemOf('peer-publisher-silent', {
    subject: `peer ${peer}`,
    cause: `nobody has written its heartbeat for ${Math.round(age / 1000)} s: its clustermesh-apiserver does not publish`,
    values: { peer },
  });
  return { seen, problem };
}

/** Where the peer is read from our own mirror, the mirror alone knows how the peer is. */
async function lookAtMirror({ peer, store, signal }: Look): Promise<StepResult> {
  const key = meshPeerKey(parseClusterName(peer));
  const pair = await store.get(key, { signal });
  if (pair === undefined) return { seen: ['the mirror says nothing of it'], isSkipped: true };
  const { state, reason } = decodePeerReport(pair.value, key);
  const seen = [
    `it is read from our own mirror, which says: ${state}${reason === '' ? '' : `, ${reason}`}`,
  ];
  if (state !== 'failed' && state !== 'stale') return { seen };
  const problem = problemOf(state === 'failed' ? 'peer-failed' : 'peer-stale', {
    subject: `peer ${peer}`,
    cause: `our mirror of it is ${state}: ${reason}`,
    values: { peer },
  });
  return { seen, problem };
}

const NOT_FROM_HERE = Promise.resolve<StepResult>({
  seen: ['it is read from our own mirror: ask the apiserver'],
  isSkipped: true,
});

async function lookAtData(
  { peer, store, signal }: Look,
  layout: { readonly cached: boolean },
): Promise<StepResult> {
  const name = parseClusterName(peer);
  const count = async (prefix: string): Promise<number> =>
    (await store.count(prefix, { signal })).count;
  const [nodes, ips, identities, services, markers] = await Promise.all([
    count(nodesPrefix(name, layout)),
    count(ipsPrefix(name, layout)),
    count(identitiesPrefix(name, layout)),
    count(servicesPrefix(name, layout)),
    count(syncedPrefix(name)),
  ]);
  const seen = [
    `it publishes ${nodes} nodes, ${ips} addresses, ${identities} identities, ${services} services, and marks ${markers} kinds as complete`,
  ];
  if (nodes > 0) return { seen };
  return {
    seen,
    problem: problemOf('peer-no-nodes', {
      subject: `peer ${peer}`,
      cause: 'it publishes no nodes, so no packet can be sent to its pods',
      values: { peer },
    }),
  };
}

/** Whether it reads us: its mirror, where it has one, says so in its own etcd. */
async function lookBack({ peer, own, store, signal }: Look): Promise<StepResult> {
  if (own === undefined) return { seen: ['our own name is not known here'], isSkipped: true };
  const key = meshPeerKey(own.name);
  const pair = await store.get(key, { signal });
  if (pair === undefined) {
    return {
      seen: ['it has no mirror of us that would say so; ask there with `clustermesh status`'],
      isSkipped: true,
    };
  }
  const report = decodePeerReport(pair.value, key);
  const seen = [
    `its mirror says of us: ${report.state}${report.reason === '' ? '' : `, ${report.reason}`}`,
  ];
  if (report.state !== 'failed' && report.state !== 'stale') return { seen };
  return {
    seen,
    problem: problemOf('peer-half-connected', {
      subject: `peer ${peer}`,
      cause: `we can read it, and it cannot read us: its mirror says ${report.state}: ${report.reason}`,
      values: { peer },
    }),
  };
}

/** A key that may not be read, or cannot, leaves its step open and the others as they are. */
async function guarded(look: Look, make: () => Promise<StepResult>): Promise<StepResult> {
  try {
    return await make();
  } catch (error) {
    if (error instanceof KvError && error.code === 'permission-denied') {
      return { seen: [`it does not let us read that: ${error.message}`], isSkipped: true };
    }
    return failedCall(look, error);
  }
}

const CALL_PROBLEMS: Readonly<Record<KvError['code'], ProblemId>> = {
  unavailable: 'peer-unreachable',
  timeout: 'peer-etcd-silent',
  unauthenticated: 'own-certificate-refused',
  'permission-denied': 'peer-permission-denied',
  compacted: 'peer-failed',
  'too-large': 'peer-failed',
  'cluster-changed': 'peer-store-replaced',
  invalid: 'peer-failed',
  closed: 'peer-failed',
};

function failedCall({ peer, signal }: Look, error: unknown): StepResult {
  const subject = `peer ${peer}`;
  if (error instanceof WireError) {
    const problem = problemOf('peer-config-unreadable', {
      subject,
      cause: error.message,
      values: { peer },
    });
    return { seen: [], problem };
  }
  if (!(error instanceof KvError)) {
    if (!signal.aborted) throw error;
    const problem = problemOf('peer-etcd-silent', {
      subject,
      cause: 'its etcd does not answer in time',
      values: { peer },
    });
    return { seen: [], problem };
  }
  const cause =
    error.code === 'timeout'
      ? `its server lets us in, and nothing answers behind it within ${CALL_TIMEOUT_MS / 1000} s`
      : explainFailure(error, peer);
  return {
    seen: [],
    problem: problemOf(CALL_PROBLEMS[error.code], { subject, cause, values: { peer } }),
  };
}
