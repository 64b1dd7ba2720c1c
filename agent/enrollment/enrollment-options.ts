import { parseHostPort, parseText } from '../../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../../mesh/runtime/options.ts';

/** Options of an agent whose node enrols, as nodes of a cluster in Kubernetes do. */
export const NODE_ENROLLMENT_OPTIONS = defineOptions({
  enrollmentAddress: {
    flag: '--enrollment-address HOST:PORT',
    env: 'ISTHMUS_ENROLLMENT_ADDRESS',
    parse: parseHostPort,
    help: "where this node gets its certificate, in place of --etcd-config, --clustermesh-config and --registry-address: --enrollment-address of the own cluster's apiserver, whose gate and registry are reached at the same host. What comes of it is kept in --state-dir",
  },
  enrollmentTokenFile: {
    flag: '--enrollment-token-file FILE',
    env: 'ISTHMUS_ENROLLMENT_TOKEN_FILE',
    parse: parseText,
    help: "with --enrollment-address: token of our pod's service account, projected for the audience isthmus-registry; it is read anew each time",
  },
  enrollmentTrustedCaFile: {
    flag: '--enrollment-trusted-ca-file FILE',
    env: 'ISTHMUS_ENROLLMENT_TRUSTED_CA_FILE',
    parse: parseText,
    help: 'with --enrollment-address: CA of the own cluster, by which the apiserver is known; it is read anew each time',
  },
});
