/** What a cluster has read of its peers, as its nodes see it. */
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { nodeLeaf } from '../../pki/names.ts';
import type { PeeringCluster } from './peering-site.ts';

/** Keys that a node of a cluster reads, by default of what is mirrored there. */
export async function mirroredKeys(
  cluster: PeeringCluster,
  prefix = 'cilium/cache/',
): Promise<string[]> {
  const pair = await issueCertificate(cluster.ca, nodeLeaf('reader'));
  await using store = await openEtcd({
    endpoints: [`https://127.0.0.1:${cluster.gatePort}`],
    tls: { ca: cluster.ca.root, cert: pair.certificate, key: pair.privateKey },
  });
  return (await store.list(prefix)).pairs.map(({ key }) => key);
}
