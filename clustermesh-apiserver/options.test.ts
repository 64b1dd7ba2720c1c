import { test } from 'tap';
import { OptionsError, parseOptions } from '../mesh/runtime/options.ts';
import { APISERVER_OPTIONS } from './options.ts';

const REQUIRED = [
  '--cluster-name=alpha',
  '--cluster-id=1',
  '--manifests=/m',
  '--tls-cert-file=c',
  '--tls-key-file=k',
  '--trusted-ca-file=a',
];

test('APISERVER_OPTIONS has the documented defaults', async (t) => {
  t.match(parseOptions(APISERVER_OPTIONS, REQUIRED, {}), {
    clusterName: 'alpha',
    clusterId: 1,
    maxConnectedClusters: 255,
    dataDir: '/var/lib/isthmus/apiserver',
    gateAddress: { host: '::', port: 2379 },
    registryAddress: { host: '::', port: 2381 },
    healthAddress: { host: '127.0.0.1', port: 9880 },
    etcdBinary: 'etcd',
    etcdPort: 0,
    etcdEndpoints: [],
    kvstoreLeaseTtl: 900_000,
    heartbeatInterval: 60_000,
    nodeSessionGrace: 60_000,
    peerTrustDir: undefined,
  });
});

test('APISERVER_OPTIONS names the flag or variable that is wrong', async (t) => {
  const cases: readonly [string[], Record<string, string>, RegExp][] = [
    [['--cluster-name=Alpha'], {}, /--cluster-name: cannot parse cluster name "Alpha"/],
    [['--cluster-name=default'], {}, /--cluster-name: .*reserved/],
    [['--cluster-id=0'], {}, /--cluster-id: .*from 1 to 511/],
    [['--max-connected-clusters=300'], {}, /--max-connected-clusters: .*255 or 511/],
    [['--gate-address=2379'], {}, /--gate-address: .*host:port/],
    [['--kvstore-lease-ttl=10s'], {}, /--kvstore-lease-ttl: .*25s to 24h/],
    [['--heartbeat-interval=5m'], {}, /--heartbeat-interval: .*1s to 60s/],
    [['--etcd-port=70000'], {}, /--etcd-port: .*65535/],
    [[], { ISTHMUS_LOG_LEVEL: 'loud' }, /ISTHMUS_LOG_LEVEL \(environment\): /],
    [['--no-such-flag'], {}, /unknown option '--no-such-flag'/],
  ];
  for (const [argv, env, message] of cases) {
    t.throws(() => parseOptions(APISERVER_OPTIONS, [...REQUIRED, ...argv], env), {
      name: 'OptionsError',
      exitCode: 2,
      message,
    });
  }
  t.throws(() => parseOptions(APISERVER_OPTIONS, [], {}), {
    message: /--cluster-name is required.*--cluster-id is required.*--tls-cert-file is required/,
  });
});

test('every option is explained in the help, with its default and its variable', async (t) => {
  try {
    parseOptions(APISERVER_OPTIONS, ['--help'], {}, { name: 'clustermesh-apiserver' });
    t.fail('help is thrown');
  } catch (error) {
    if (!(error instanceof OptionsError)) throw error;
    t.equal(error.exitCode, 0);
    for (const { flag, env } of Object.values(APISERVER_OPTIONS)) {
      t.match(error.message, flag.split(' ')[0] ?? flag);
      t.match(error.message, env);
    }
  }
});
