import { CLUSTER_OPTIONS } from '../../mesh/runtime/cluster-options.ts';
import { parseDuration, parseHostPort, parseText } from '../../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../../mesh/runtime/options.ts';
import { PROCESS_OPTIONS } from '../../mesh/runtime/process-options.ts';
import { parseLeaseTtl } from '../bounded-duration.ts';
import { ETCD_TLS_OPTIONS } from '../etcd-options.ts';

/** Options of the mirror that `clustermesh-apiserver --kvstoremesh` and `clustermesh-apiserver kvstoremesh` share. */
export const MIRROR_OPTIONS = defineOptions({
  perClusterReadyTimeout: {
    flag: '--per-cluster-ready-timeout DURATION',
    env: 'ISTHMUS_PER_CLUSTER_READY_TIMEOUT',
    default: '15s',
    parse: parseDuration,
    help: 'how long readiness waits for a peer that does not connect',
  },
  globalReadyTimeout: {
    flag: '--global-ready-timeout DURATION',
    env: 'ISTHMUS_GLOBAL_READY_TIMEOUT',
    default: '10m',
    parse: parseDuration,
    help: 'how long readiness waits for the first copy of all peers',
  },
});

/** Options of `clustermesh-apiserver kvstoremesh`. */
export const KVSTOREMESH_OPTIONS = defineOptions({
  ...CLUSTER_OPTIONS,
  clustermeshConfig: {
    flag: '--clustermesh-config DIR',
    env: 'ISTHMUS_CLUSTERMESH_CONFIG',
    parse: parseText,
    required: true,
    help: "directory of the peers' etcd client files, a file a peer, named like its cluster; it is watched",
  },
  etcdEndpoints: {
    flag: '--etcd-endpoints URL',
    env: 'ISTHMUS_ETCD_ENDPOINTS',
    parse: parseText,
    repeatable: true,
    required: true,
    help: "this cluster's own etcd, which is written; not its gate, which lets nobody write",
  },
  ...ETCD_TLS_OPTIONS,
  kvstoreLeaseTtl: {
    flag: '--kvstore-lease-ttl DURATION',
    env: 'ISTHMUS_KVSTORE_LEASE_TTL',
    default: '15m',
    parse: parseLeaseTtl,
    help: 'how long what is mirrored outlives this process, 25s to 24h',
  },
  healthAddress: {
    flag: '--health-address HOST:PORT',
    env: 'ISTHMUS_HEALTH_ADDRESS',
    default: '127.0.0.1:9881',
    parse: parseHostPort,
    help: 'where /readyz, /healthz, /status and /cluster answer over plain HTTP',
  },
  ...MIRROR_OPTIONS,
  ...PROCESS_OPTIONS,
});
