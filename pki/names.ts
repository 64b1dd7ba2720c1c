/**
 * Common names and secret names, as Cilium's charts give them. The spaces of names are disjoint, because the gate decides by
 * the name who calls: `node-…`, `machine-…`, `remote…`, `admin-…`, `local-…`.
 */
import type { LeafOptions } from './ca.ts';

/** Domain under which every cluster's apiserver has the name `<cluster>.mesh.cilium.io`. */
export const MESH_DOMAIN = 'mesh.cilium.io';

/** Names of the Kubernetes secrets, which are the names of folders here. */
export const SECRET_NAMES = {
  server: 'clustermesh-apiserver-server-cert',
  admin: 'clustermesh-apiserver-admin-cert',
  remote: 'clustermesh-apiserver-remote-cert',
  local: 'clustermesh-apiserver-local-cert',
  /** Not a leaf: the authority that the registry signs with. */
  enrollment: 'clustermesh-apiserver-enrollment-ca',
} as const;

/** Name that a peer's readers verify. */
export function serverDnsName(cluster: string): string {
  return `${cluster}.${MESH_DOMAIN}`;
}

/** Certificate of the gate and the registry. */
export function serverLeaf(
  cluster: string,
  options: {
    namespace?: string;
    dnsNames?: readonly string[];
    ipAddresses?: readonly string[];
  } = {},
): LeafOptions {
  const namespace = options.namespace ?? 'kube-system';
  return {
    commonName: 'clustermesh-apiserver.cilium.io',
    usage: 'server',
    dnsNames: [
      'clustermesh-apiserver.cilium.io',
      `*.${MESH_DOMAIN}`,
      serverDnsName(cluster),
      `clustermesh-apiserver.${namespace}.svc`,
      'localhost',
      ...(options.dnsNames ?? []),
    ],
    ipAddresses: ['127.0.0.1', '::1', ...(options.ipAddresses ?? [])],
  };
}

/** Certificate of the apiserver itself and of its kvstoremesh. */
export function adminLeaf(cluster: string): LeafOptions {
  return { commonName: `admin-${cluster}`, usage: 'client' };
}

/** Certificate that `cluster` shows to its peers; without a cluster the name that Cilium's `legacy` mode uses. */
export function remoteLeaf(cluster?: string): LeafOptions {
  return { commonName: cluster === undefined ? 'remote' : `remote-${cluster}`, usage: 'client' };
}

/** Certificate of the own cluster's readers of a mirror. */
export function localLeaf(cluster: string): LeafOptions {
  return { commonName: `local-${cluster}`, usage: 'client' };
}

/** Certificate of an agent on a node. */
export function nodeLeaf(node: string): LeafOptions {
  return { commonName: `node-${node}`, usage: 'client' };
}

/** Certificate of an agent on a machine outside Kubernetes. */
export function machineLeaf(machine: string): LeafOptions {
  return { commonName: `machine-${machine}`, usage: 'client' };
}
