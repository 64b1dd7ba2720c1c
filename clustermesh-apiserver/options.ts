import {
  integerParser,
  parseDuration,
  parseHostPort,
  parseLogLevel,
  parseText,
} from '../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../mesh/runtime/options.ts';
import { parseClusterName, parseMaxConnectedClusters } from '../mesh/wire/ids.ts';

/** Shortest and longest life of the lease that published keys hang on, as Cilium bounds it. */
const LEASE_TTL = { minMs: 25_000, maxMs: 86_400_000 };

/** Options of `clustermesh-apiserver`. */
export const APISERVER_OPTIONS = defineOptions({
  clusterName: {
    flag: '--cluster-name NAME',
    env: 'ISTHMUS_CLUSTER_NAME',
    parse: (text: string) => parseClusterName(text),
    required: true,
    help: 'name of this cluster',
  },
  clusterId: {
    flag: '--cluster-id NUMBER',
    env: 'ISTHMUS_CLUSTER_ID',
    parse: integerParser(1, 511),
    required: true,
    help: 'id of this cluster, 1 to 255, or to 511 with --max-connected-clusters=511',
  },
  maxConnectedClusters: {
    flag: '--max-connected-clusters NUMBER',
    env: 'ISTHMUS_MAX_CONNECTED_CLUSTERS',
    default: '255',
    parse: (text: string) => parseMaxConnectedClusters(Number(text)),
    help: 'size of the mesh, 255 or 511; the same in every cluster',
  },
  manifests: {
    flag: '--manifests DIR',
    env: 'ISTHMUS_MANIFESTS',
    parse: parseText,
    required: true,
    help: 'watched directory of Kubernetes YAML that describes this cluster',
  },
  dataDir: {
    flag: '--data-dir DIR',
    env: 'ISTHMUS_DATA_DIR',
    default: '/var/lib/isthmus/apiserver',
    parse: parseText,
    help: 'folder of the embedded etcd',
  },
  gateAddress: {
    flag: '--gate-address HOST:PORT',
    env: 'ISTHMUS_GATE_ADDRESS',
    default: '[::]:2379',
    parse: parseHostPort,
    help: 'where readers of this and other clusters connect',
  },
  tlsCertFile: {
    flag: '--tls-cert-file FILE',
    env: 'ISTHMUS_TLS_CERT_FILE',
    parse: parseText,
    required: true,
    help: 'certificate of the gate, with its intermediates; read again when it changes',
  },
  tlsKeyFile: {
    flag: '--tls-key-file FILE',
    env: 'ISTHMUS_TLS_KEY_FILE',
    parse: parseText,
    required: true,
    help: 'private key of that certificate',
  },
  trustedCaFile: {
    flag: '--trusted-ca-file FILE',
    env: 'ISTHMUS_TRUSTED_CA_FILE',
    parse: parseText,
    required: true,
    help: "this cluster's own CA, which vouches for its nodes, machines and readers",
  },
  peerTrustDir: {
    flag: '--peer-trust-dir DIR',
    env: 'ISTHMUS_PEER_TRUST_DIR',
    parse: parseText,
    help: 'folder with <peer>.crt for each peer: its CA vouches for that peer and for nobody else',
  },
  revokedFile: {
    flag: '--revoked-file FILE',
    env: 'ISTHMUS_REVOKED_FILE',
    parse: parseText,
    help: 'YAML list of {fingerprint: sha256} or {commonName: name} that are refused and cut off',
  },
  etcdBinary: {
    flag: '--etcd-binary NAME',
    env: 'ISTHMUS_ETCD_BINARY',
    default: 'etcd',
    parse: parseText,
    help: 'name or path of the etcd to start',
  },
  etcdPort: {
    flag: '--etcd-port PORT',
    env: 'ISTHMUS_ETCD_PORT',
    default: '0',
    parse: integerParser(0, 65_535),
    help: 'loopback port of that etcd; 0 takes a free one',
  },
  etcdEndpoints: {
    flag: '--etcd-endpoints URL',
    env: 'ISTHMUS_ETCD_ENDPOINTS',
    parse: parseText,
    repeatable: true,
    help: 'an etcd run by others, instead of the embedded one; it must be reached by this program alone',
  },
  etcdCaFile: {
    flag: '--etcd-ca-file FILE',
    env: 'ISTHMUS_ETCD_CA_FILE',
    parse: parseText,
    help: 'CA of the etcd given by --etcd-endpoints',
  },
  etcdCertFile: {
    flag: '--etcd-cert-file FILE',
    env: 'ISTHMUS_ETCD_CERT_FILE',
    parse: parseText,
    help: 'client certificate for it',
  },
  etcdKeyFile: {
    flag: '--etcd-key-file FILE',
    env: 'ISTHMUS_ETCD_KEY_FILE',
    parse: parseText,
    help: 'private key of that certificate',
  },
  registryAddress: {
    flag: '--registry-address HOST:PORT',
    env: 'ISTHMUS_REGISTRY_ADDRESS',
    default: '[::]:2381',
    parse: parseHostPort,
    help: "where this cluster's agents open their sessions",
  },
  nodeSessionGrace: {
    flag: '--node-session-grace DURATION',
    env: 'ISTHMUS_NODE_SESSION_GRACE',
    default: '60s',
    parse: parseDuration,
    help: 'how long a node stays published after its session ended',
  },
  healthAddress: {
    flag: '--health-address HOST:PORT',
    env: 'ISTHMUS_HEALTH_ADDRESS',
    default: '127.0.0.1:9880',
    parse: parseHostPort,
    help: 'where /healthz, /readyz and /status answer',
  },
  kvstoreLeaseTtl: {
    flag: '--kvstore-lease-ttl DURATION',
    env: 'ISTHMUS_KVSTORE_LEASE_TTL',
    default: '15m',
    parse: parseLeaseTtl,
    help: 'how long published keys outlive this program, 25s to 24h',
  },
  heartbeatInterval: {
    flag: '--heartbeat-interval DURATION',
    env: 'ISTHMUS_HEARTBEAT_INTERVAL',
    default: '60s',
    parse: parseDuration,
    help: 'how often the heartbeat is written; readers of Cilium expect one each two minutes',
  },
  logLevel: {
    flag: '--log-level LEVEL',
    env: 'ISTHMUS_LOG_LEVEL',
    default: 'info',
    parse: parseLogLevel,
    help: 'trace, debug, info, warn, error, fatal or silent',
  },
});

function parseLeaseTtl(text: string): number {
  const milliseconds = parseDuration(text);
  if (milliseconds < LEASE_TTL.minMs || milliseconds > LEASE_TTL.maxMs) {
    throw new Error(`cannot use ${text}: expected 25s to 24h`);
  }
  return milliseconds;
}
