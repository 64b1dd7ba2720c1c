/** Options of peers that are declared: where they are kept, and what this cluster tells others of itself. */
import { join } from 'node:path';
import type { CidrLists } from '../mesh/remote/announced.ts';
import {
  choiceParser,
  integerParser,
  parseBoolean,
  parseHostPort,
  parseText,
} from '../mesh/runtime/option-parsers.ts';
import { defineOptions, OptionsError, type OptionValues } from '../mesh/runtime/options.ts';
import { parseIpPrefix } from '../mesh/wire/ip.ts';
import { type PeerDatapath, ROUTING_MODES } from './peering/mesh-peer.ts';

/** Options about peers. */
export const PEERING_OPTIONS = defineOptions({
  peersDir: {
    flag: '--peers-dir DIR',
    env: 'ISTHMUS_PEERS_DIR',
    parse: parseText,
    help: 'for --mode=standalone: directory of the peers, a MeshPeer in YAML each, NAME.yaml; it is watched. Peers are trusted, enrolled with and mirrored as it says, in place of --clustermesh-config, --peer-trust-dir and --kvstoremesh',
  },
  meshPeers: {
    flag: '--mesh-peers',
    env: 'ISTHMUS_MESH_PEERS',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: 'the same by the MeshPeer objects of the API server, for the modes cilium, any-cni and auto',
  },
  peeringKeyFile: {
    flag: '--peering-key-file FILE',
    env: 'ISTHMUS_PEERING_KEY_FILE',
    parse: parseText,
    help: 'private key by which this cluster proves itself to peers; made when it is not there. Replicas share it. Default: peering/peering.key in --data-dir; with --mesh-peers the Secret clustermesh-apiserver-peering-key',
  },
  advertiseEnrollment: {
    flag: '--advertise-enrollment HOST:PORT',
    env: 'ISTHMUS_ADVERTISE_ENROLLMENT',
    parse: parseHostPort,
    repeatable: true,
    help: 'where peers are told to enrol; default: the hosts of --advertise-gate with the port of --enrollment-address',
  },
  podNetworks: {
    flag: '--pod-networks CIDR',
    env: 'ISTHMUS_POD_NETWORKS',
    parse: parseIpPrefix,
    repeatable: true,
    help: 'network of the pods of this cluster, now and later: peers refuse everything else, and check that none overlaps with theirs. Without it they take what is announced first. Needs --node-networks',
  },
  nodeNetworks: {
    flag: '--node-networks CIDR',
    env: 'ISTHMUS_NODE_NETWORKS',
    parse: parseIpPrefix,
    repeatable: true,
    help: 'the same of its nodes. Needs --pod-networks',
  },
  serviceNetworks: {
    flag: '--service-networks CIDR',
    env: 'ISTHMUS_SERVICE_NETWORKS',
    parse: parseIpPrefix,
    repeatable: true,
    help: 'the same of the addresses of its Services',
  },
  machineNetworks: {
    flag: '--machine-networks CIDR',
    env: 'ISTHMUS_MACHINE_NETWORKS',
    parse: parseIpPrefix,
    repeatable: true,
    help: 'the same of its machines outside Kubernetes',
  },
  routingMode: {
    flag: '--routing-mode MODE',
    env: 'ISTHMUS_ROUTING_MODE',
    parse: choiceParser(ROUTING_MODES),
    help: 'how packets leave the nodes of this cluster, tunnel or native, as peers are told; a peer of another mode is refused. Without it nobody is told',
  },
  mtu: {
    flag: '--mtu BYTES',
    env: 'ISTHMUS_MTU',
    parse: integerParser(1280, 65_535),
    help: 'largest packet between nodes of this cluster, as peers are told; a peer of another one is refused. Without it nobody is told',
  },
});

/** Peers that are declared. */
export interface PeeringSettings {
  readonly source:
    | { readonly kind: 'files'; readonly directory: string }
    | {
        readonly kind: 'kubernetes';
        /** Of the Secrets. Default: that of the credentials. */
        readonly namespace: string | undefined;
      };
  /** Folder of what is made of them. */
  readonly folder: string;
  /** Undefined: where it belongs by default. */
  readonly keyFile: string | undefined;
  readonly advertiseGate: PeeringValues['advertiseGate'];
  readonly advertiseEnrollment: PeeringValues['advertiseGate'];
  /** Undefined: it is not said what this cluster announces. */
  readonly networks: CidrLists | undefined;
  readonly datapath: PeerDatapath;
}

/** Options that are looked at. */
export type PeeringValues = OptionValues<typeof PEERING_OPTIONS> & {
  readonly dataDir: string;
  readonly leaseNamespace: string | undefined;
  readonly manifests: string | undefined;
  readonly mode: string | undefined;
  readonly clustermeshConfig: string | undefined;
  readonly peerTrustDir: string | undefined;
  readonly kvstoremesh: boolean;
  readonly advertiseGate: readonly { readonly host: string; readonly port: number }[];
  readonly tunnelPort: number;
};

/** Peers as the options say; undefined: none are declared. Throws OptionsError naming flags that do not go together. */
export function peeringSettings(values: PeeringValues): PeeringSettings | undefined {
  const { peersDir, meshPeers } = values;
  if (peersDir === undefined && !meshPeers) return undefined;
  const flag = peersDir === undefined ? '--mesh-peers' : '--peers-dir';
  const isStandalone =
    values.mode === 'standalone' || (values.mode === undefined && values.manifests !== undefined);
  if (peersDir !== undefined && meshPeers) throw usage('give either --peers-dir or --mesh-peers');
  if (peersDir !== undefined && !isStandalone) {
    throw usage('--peers-dir is for --mode=standalone; with an API server give --mesh-peers');
  }
  if (meshPeers && isStandalone) {
    throw usage('--mesh-peers needs an API server; for --mode=standalone give --peers-dir');
  }
  for (const [other, value] of [
    ['--clustermesh-config', values.clustermeshConfig],
    ['--peer-trust-dir', values.peerTrustDir],
  ] as const) {
    if (value !== undefined) throw usage(`${flag} makes what ${other} would hold: leave that out`);
  }
  return {
    source:
      peersDir === undefined
        ? { kind: 'kubernetes', namespace: values.leaseNamespace }
        : { kind: 'files', directory: peersDir },
    folder: join(values.dataDir, 'peering'),
    keyFile: values.peeringKeyFile,
    advertiseGate: values.advertiseGate,
    advertiseEnrollment: values.advertiseEnrollment,
    networks: networksOf(values),
    datapath: {
      routingMode: values.routingMode,
      mtu: values.mtu,
      tunnelPort: values.routingMode === 'native' ? undefined : values.tunnelPort,
    },
  };
}

/** The options with what comes of the peers: folders that others fill otherwise, and the mirror. */
export function withPeering<V extends PeeringValues>(
  values: V,
  settings: PeeringSettings | undefined,
): V {
  if (settings === undefined) return values;
  const { trust, clients } = managedFolderPaths(settings);
  return { ...values, peerTrustDir: trust, clustermeshConfig: clients, kvstoremesh: true };
}

/** Where the folders are. */
export function managedFolderPaths({ folder }: Pick<PeeringSettings, 'folder'>): {
  readonly trust: string;
  readonly clients: string;
} {
  return { trust: join(folder, 'trust'), clients: join(folder, 'clients') };
}

function networksOf(values: PeeringValues): CidrLists | undefined {
  const { podNetworks: pods, nodeNetworks: nodes } = values;
  const { serviceNetworks: services, machineNetworks: machines } = values;
  if ([pods, nodes, services, machines].every((list) => list.length === 0)) return undefined;
  // Peers take from a list what is on it, and nothing else: half a list would shut the other half out.
  if (pods.length === 0 || nodes.length === 0) {
    throw usage('--pod-networks and --node-networks are given together, or none of the networks');
  }
  return { pods, nodes, services, machines };
}

function usage(message: string): OptionsError {
  return new OptionsError('usage', message);
}
