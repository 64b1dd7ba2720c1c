/** A lab's certificates: an authority a cluster, and the files in which its apiserver and agents find what they need. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type CertificateAuthority,
  createCa,
  createEnrollmentCa,
  issueCertificate,
  type KeyPair,
} from '../../pki/ca.ts';
import {
  type SecretFiles,
  secretFiles,
  writeCa,
  writePeer,
  writePrivateFile,
  writeSecret,
} from '../../pki/layout.ts';
import {
  adminLeaf,
  nodeLeaf,
  remoteLeaf,
  SECRET_NAMES,
  serverDnsName,
  serverLeaf,
} from '../../pki/names.ts';
import type { ClusterPlan, LabPlan, NodePlan } from './plan.ts';

/** What one cluster's programs are given. */
export interface ClusterCertificates {
  readonly cluster: ClusterPlan;
  readonly ca: CertificateAuthority;
  /** What the cluster's agents show to peers. */
  readonly remote: KeyPair;
}

/** Folder with a peer's authority a file, `<peer>.crt`, which the gate trusts for that peer alone. */
export function peerTrustFolder(cluster: ClusterPlan): string {
  return join(cluster.folder, 'peer-trust');
}

/** Folder with the cluster's authority and secrets. */
export function pkiFolder(cluster: ClusterPlan): string {
  return join(cluster.folder, 'pki');
}

/** The authority that a cluster's registry signs machines with. */
export function enrollmentCaFiles(cluster: ClusterPlan): SecretFiles {
  return secretFiles(cluster.folder, 'enrollment');
}

/** Token by which a node's agent enrols. */
export function tokenFile(node: NodePlan): string {
  return join(node.folder, 'agent.token');
}

/** File by which a node's agent reaches its own cluster. */
export function ownConfigFile(node: NodePlan): string {
  return join(node.folder, 'etcd', node.cluster);
}

/** Directory of peers that a node's agent watches. */
export function peersFolder(node: NodePlan): string {
  return join(node.folder, 'clustermesh');
}

/** Makes and writes everything. */
export async function makeCertificates(
  plan: LabPlan,
): Promise<ReadonlyMap<string, ClusterCertificates>> {
  const made = await Promise.all(plan.clusters.map(makeCluster));
  for (const mine of made) {
    const folder = peerTrustFolder(mine.cluster);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const peer of made) {
      if (peer !== mine)
        await writePrivateFile(join(folder, `${peer.cluster.name}.crt`), peer.ca.root);
    }
    await Promise.all(mine.cluster.nodes.map((node) => makeNode(node, mine, made)));
  }
  return new Map(made.map((one) => [one.cluster.name, one]));
}

/** Writes the files by which a node's agent knows a peer; the agent picks them up at once. */
export async function writePeerOfNode(
  node: NodePlan,
  mine: ClusterCertificates,
  peer: ClusterCertificates,
): Promise<void> {
  await writePeer(peersFolder(node), peer.cluster.name, {
    ...reachGate(peer.cluster),
    ca: peer.ca.root,
    client: mine.remote,
  });
}

async function makeCluster(cluster: ClusterPlan): Promise<ClusterCertificates> {
  const ca = await createCa();
  const [server, remote] = await Promise.all([
    issueCertificate(ca, serverLeaf(cluster.name, { ipAddresses: cluster.first.addresses })),
    issueCertificate(ca, remoteLeaf(cluster.name)),
  ]);
  const folder = pkiFolder(cluster);
  await writeCa(folder, ca);
  await writeSecret(folder, SECRET_NAMES.server, { ca: ca.root, pair: server });
  await writeSecret(folder, SECRET_NAMES.remote, { ca: ca.root, pair: remote });
  if (cluster.takesMachines) await makeForMachines(cluster, ca);
  return { cluster, ca, remote };
}

/** What makes tokens, and what signs those that come with one. */
async function makeForMachines(cluster: ClusterPlan, ca: CertificateAuthority): Promise<void> {
  const [admin, enrollment] = await Promise.all([
    issueCertificate(ca, adminLeaf(cluster.name)),
    createEnrollmentCa(ca),
  ]);
  await writeSecret(pkiFolder(cluster), SECRET_NAMES.admin, { ca: ca.root, pair: admin });
  const pair = { certificate: enrollment.chain.join(''), privateKey: enrollment.privateKey };
  await writeSecret(cluster.folder, 'enrollment', { ca: ca.root, pair });
}

async function makeNode(
  node: NodePlan,
  mine: ClusterCertificates,
  all: readonly ClusterCertificates[],
): Promise<void> {
  await writePeer(join(node.folder, 'etcd'), node.cluster, {
    ...reachGate(mine.cluster),
    ca: mine.ca.root,
    client: await issueCertificate(mine.ca, nodeLeaf(node.name)),
  });
  await mkdir(peersFolder(node), { recursive: true, mode: 0o700 });
  for (const peer of all) {
    if (peer !== mine) await writePeerOfNode(node, mine, peer);
  }
}

/** The gate under its Cilium name, with the address that a name server would give. */
function reachGate(cluster: ClusterPlan): {
  endpoints: string[];
  hostAliases: { hostname: string; ips: string[] }[];
} {
  const hostname = serverDnsName(cluster.name);
  return {
    endpoints: [`https://${hostname}:2379`],
    hostAliases: [{ hostname, ips: [cluster.first.addresses[0]] }],
  };
}
