/** What an apiserver claims for itself, lest another one publishes the same cluster elsewhere. */
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { ClusterName } from '../mesh/wire/ids.ts';
import { claimManifests, type ManifestsClaim } from './etcd/manifests-claim.ts';
import { claimKubernetes, type KubernetesClaim } from './kubernetes-claim.ts';
import type { EtcdSettings } from './open-store.ts';
import type { PublishedCluster, SourceSettings } from './publish-cluster.ts';

interface ClaimOptions {
  readonly cluster: { readonly name: ClusterName };
  readonly etcd: EtcdSettings;
  readonly kubernetes?: { readonly leaseNamespace?: string | undefined } | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** Where we give out the identities of a cluster in Kubernetes, nobody else may do it into another etcd. */
export function claimCluster(
  options: ClaimOptions,
  { published, replica }: { readonly published: PublishedCluster; readonly replica: string },
): KubernetesClaim {
  const { etcd, clock, logger, signal } = options;
  if (isShared(etcd) || published.kubernetes === undefined || published.mode === 'cilium') {
    const settled = Promise.resolve();
    return { settled, ended: settled, [Symbol.asyncDispose]: () => settled };
  }
  return claimKubernetes(published.kubernetes.api, {
    namespace: options.kubernetes?.leaseNamespace,
    replica,
    dataDir: placeOf(etcd),
    clock,
    logger,
    signal,
  });
}

/** With an etcd of its own no other apiserver may publish the same: replicas share one. Rejects when another one does. */
export async function claimOwnManifests(
  options: ClaimOptions,
  source: SourceSettings,
): Promise<Pick<ManifestsClaim, 'ended'> & AsyncDisposable> {
  const { etcd, cluster, clock, logger, signal } = options;
  if (isShared(etcd) || source.kind !== 'manifests') {
    return { ended: Promise.resolve(), [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const owner = { clusterName: cluster.name, dataDir: placeOf(etcd), clock, logger, signal };
  return claimManifests(source.directory, owner);
}

function isShared(etcd: EtcdSettings): boolean {
  return etcd.kind === 'external' && etcd.isShared !== false;
}

/** Where an etcd is, for people. */
function placeOf(etcd: EtcdSettings): string {
  return etcd.kind === 'embedded' ? etcd.dataDir : etcd.endpoints.join();
}
