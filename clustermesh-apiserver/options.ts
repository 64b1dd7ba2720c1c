import { CLUSTER_OPTIONS } from '../mesh/runtime/cluster-options.ts';
import {
  integerParser,
  parseBoolean,
  parseDuration,
  parseHostPort,
  parseText,
} from '../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../mesh/runtime/options.ts';
import { PROCESS_OPTIONS } from '../mesh/runtime/process-options.ts';
import { parseBoundedDuration, parseLeaseTtl } from './bounded-duration.ts';
import { ENROLLMENT_OPTIONS } from './enrollment-options.ts';
import { ETCD_TLS_OPTIONS } from './etcd-options.ts';
import { KUBERNETES_OPTIONS } from './kubernetes-options.ts';
import { MIRROR_OPTIONS } from './kvstoremesh/options.ts';
import { PEERING_OPTIONS } from './peering-options.ts';

/** Options of `clustermesh-apiserver`. */
export const APISERVER_OPTIONS = defineOptions({
  ...CLUSTER_OPTIONS,
  manifests: {
    flag: '--manifests DIR',
    env: 'ISTHMUS_MANIFESTS',
    parse: parseText,
    help: 'directory of Kubernetes YAML that describes this cluster, for --mode=standalone; it is watched. Replace files by rename, so that none is read half written',
  },
  ...KUBERNETES_OPTIONS,
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
    help: 'where agents and peers read this cluster (etcd over mutual TLS)',
  },
  tlsCertFile: {
    flag: '--tls-cert-file FILE',
    env: 'ISTHMUS_TLS_CERT_FILE',
    parse: parseText,
    required: true,
    help: 'certificate of the gate and the registry',
  },
  tlsKeyFile: {
    flag: '--tls-key-file FILE',
    env: 'ISTHMUS_TLS_KEY_FILE',
    parse: parseText,
    required: true,
    help: 'its private key',
  },
  trustedCaFile: {
    flag: '--trusted-ca-file FILE',
    env: 'ISTHMUS_TRUSTED_CA_FILE',
    parse: parseText,
    required: true,
    help: "CA of this cluster's own certificates",
  },
  peerTrustDir: {
    flag: '--peer-trust-dir DIR',
    env: 'ISTHMUS_PEER_TRUST_DIR',
    parse: parseText,
    help: "directory with <peer>.crt, that peer's CA; without it only certificates of the own CA are believed",
  },
  revokedFile: {
    flag: '--revoked-file FILE',
    env: 'ISTHMUS_REVOKED_FILE',
    parse: parseText,
    help: 'YAML list of {fingerprint: SHA-256} and {commonName: name} that are let in no longer',
  },
  etcdBinary: {
    flag: '--etcd-binary FILE',
    env: 'ISTHMUS_ETCD_BINARY',
    default: 'etcd',
    parse: parseText,
    help: 'etcd program that is started',
  },
  etcdPort: {
    flag: '--etcd-port PORT',
    env: 'ISTHMUS_ETCD_PORT',
    default: '0',
    parse: integerParser(0, 65_535),
    help: 'port of the embedded etcd on 127.0.0.1; 0 takes a free one',
  },
  etcdEndpoints: {
    flag: '--etcd-endpoints URL',
    env: 'ISTHMUS_ETCD_ENDPOINTS',
    parse: parseText,
    repeatable: true,
    help: 'etcd run by others; without it one is started here',
  },
  etcdExclusive: {
    flag: '--etcd-exclusive',
    env: 'ISTHMUS_ETCD_EXCLUSIVE',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: '--etcd-endpoints are of this replica alone, such as a container beside it, and hold nothing that others share: a second replica is then noticed as with an etcd that is started here',
  },
  ...ETCD_TLS_OPTIONS,
  registryAddress: {
    flag: '--registry-address HOST:PORT',
    env: 'ISTHMUS_REGISTRY_ADDRESS',
    default: '[::]:2381',
    parse: parseHostPort,
    help: "where this cluster's agents announce their nodes (gRPC over mutual TLS)",
  },
  nodeSessionGrace: {
    flag: '--node-session-grace DURATION',
    env: 'ISTHMUS_NODE_SESSION_GRACE',
    default: '60s',
    parse: parseDuration,
    help: 'how long a node without a manifest stays published after its agent has gone',
  },
  ...ENROLLMENT_OPTIONS,
  healthAddress: {
    flag: '--health-address HOST:PORT',
    env: 'ISTHMUS_HEALTH_ADDRESS',
    default: '127.0.0.1:9880',
    parse: parseHostPort,
    help: 'where /readyz, /healthz and /status answer over plain HTTP',
  },
  kvstoreLeaseTtl: {
    flag: '--kvstore-lease-ttl DURATION',
    env: 'ISTHMUS_KVSTORE_LEASE_TTL',
    default: '15m',
    parse: parseLeaseTtl,
    help: 'how long what is published outlives this process, 25s to 24h',
  },
  heartbeatInterval: {
    flag: '--heartbeat-interval DURATION',
    env: 'ISTHMUS_HEARTBEAT_INTERVAL',
    default: '60s',
    parse: parseHeartbeat,
    help: 'how often the sign of life for peers is written, 1s to 60s',
  },
  identityGrace: {
    flag: '--identity-grace DURATION',
    env: 'ISTHMUS_IDENTITY_GRACE',
    default: '15m',
    parse: parseDuration,
    help: 'how long the number of a set of labels is kept after its last pod has gone',
  },
  kvstoremesh: {
    flag: '--kvstoremesh',
    env: 'ISTHMUS_KVSTOREMESH',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: 'also mirror the peers into the own etcd, so that agents read this etcd alone; needs --clustermesh-config',
  },
  clustermeshConfig: {
    flag: '--clustermesh-config DIR',
    env: 'ISTHMUS_CLUSTERMESH_CONFIG',
    parse: parseText,
    help: "directory of the peers' etcd client files, a file a peer, named like its cluster; for --kvstoremesh and the controllers that write to Kubernetes",
  },
  ...MIRROR_OPTIONS,
  ...PEERING_OPTIONS,
  ...PROCESS_OPTIONS,
});

/** Cilium's readers give a peer up when its heartbeat is two minutes old. */
function parseHeartbeat(text: string): number {
  return parseBoundedDuration(text, { min: 1000, max: 60_000, words: '1s to 60s' });
}
