/** Where the programs of a real Kubernetes control plane are, which `scripts/peers.sh` builds. */
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { needPeers } from './peer-binary.ts';

/** Absolute paths of the programs that a test cluster is made of. */
export interface KubePrograms {
  readonly apiserver: string;
  readonly controllerManager: string;
  readonly kubectl: string;
  /** Of the release that this Kubernetes is tested with: on older ones its watches wait for what never comes. */
  readonly etcd: string;
  readonly etcdutl: string;
}

const PEERS = {
  apiserver: 'kubernetes/kube-apiserver',
  controllerManager: 'kubernetes/kube-controller-manager',
  kubectl: 'kubernetes/kubectl',
  etcd: 'etcd/etcd',
  etcdutl: 'etcd/etcdutl',
} as const;

/** Names of the programs for `needPeers`. */
export const kubePeers: readonly string[] = Object.values(PEERS);

/** The programs that `scripts/peers.sh` builds, whether they are there or not. */
export function builtKubePrograms(): KubePrograms {
  return programs((peer) => projectPath(`dist/peers/${peer}`));
}

/**
 * Programs for a test, or why it must be skipped; to be given `process.env`. What is in the folder KUBEBUILDER_ASSETS
 * (the convention of envtest, which lacks some) is taken from there.
 */
export function needKube(env: Readonly<Record<string, string | undefined>>): {
  readonly skip: string | false;
  readonly programs: KubePrograms;
} {
  const inAssets = (peer: string): string | undefined => {
    if (env.KUBEBUILDER_ASSETS === undefined) return undefined;
    const path = join(env.KUBEBUILDER_ASSETS, basename(peer));
    return existsSync(path) ? path : undefined;
  };
  const { skip } = needPeers(
    kubePeers.filter((peer) => inAssets(peer) === undefined),
    env,
  );
  return {
    skip,
    programs: programs((peer) => inAssets(peer) ?? projectPath(`dist/peers/${peer}`)),
  };
}

function programs(pathOf: (peer: string) => string): KubePrograms {
  return {
    apiserver: pathOf(PEERS.apiserver),
    controllerManager: pathOf(PEERS.controllerManager),
    kubectl: pathOf(PEERS.kubectl),
    etcd: pathOf(PEERS.etcd),
    etcdutl: pathOf(PEERS.etcdutl),
  };
}
