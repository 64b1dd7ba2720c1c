import { parseText } from '../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../mesh/runtime/options.ts';

/** How an etcd that is run by others lets us in. */
export const ETCD_TLS_OPTIONS = defineOptions({
  etcdCaFile: {
    flag: '--etcd-ca-file FILE',
    env: 'ISTHMUS_ETCD_CA_FILE',
    parse: parseText,
    help: 'CA of --etcd-endpoints',
  },
  etcdCertFile: {
    flag: '--etcd-cert-file FILE',
    env: 'ISTHMUS_ETCD_CERT_FILE',
    parse: parseText,
    help: 'client certificate for --etcd-endpoints, with the right to write all keys',
  },
  etcdKeyFile: {
    flag: '--etcd-key-file FILE',
    env: 'ISTHMUS_ETCD_KEY_FILE',
    parse: parseText,
    help: 'its private key',
  },
});
