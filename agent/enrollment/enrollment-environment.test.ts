import { test } from 'tap';
import { parseOptions } from '../../mesh/runtime/options.ts';
import { RUN_OPTIONS } from '../options.ts';
import { enrollmentEnvironment } from './enrollment-environment.ts';

const BASE = ['--cluster-name=alpha', '--cluster-id=1', '--node-name=n1', '--node-ip=192.0.2.1'];
const ENROLS = [
  '--enrollment-address=clustermesh-apiserver.kube-system.svc:2382',
  '--enrollment-token-file=/t',
  '--enrollment-trusted-ca-file=/c',
];

test('enrollmentEnvironment() stands in for what enrolling finds out', (t) => {
  const read = (argv: readonly string[], env = {}) =>
    parseOptions(RUN_OPTIONS, argv, enrollmentEnvironment(argv, env));
  t.match(read([...BASE, ...ENROLS, '--state-dir=/s']), {
    enrollmentAddress: { host: 'clustermesh-apiserver.kube-system.svc', port: 2382 },
    etcdConfig: '/s/etcd.config',
    clustermeshConfig: '/s/clustermesh',
    registryAddress: undefined,
  });
  const env = {
    ISTHMUS_ENROLLMENT_ADDRESS: '192.0.2.9:2382',
    ISTHMUS_ENROLLMENT_TOKEN_FILE: '/t',
    ISTHMUS_ENROLLMENT_TRUSTED_CA_FILE: '/c',
    ISTHMUS_MACHINE: 'false',
  };
  t.match(read(BASE, env), { etcdConfig: '/run/isthmus/etcd.config' }, 'all of it by variables');
  t.match(
    read([...BASE, '--etcd-config=/e']),
    { etcdConfig: '/e' },
    'who does not enrol is as before',
  );
  t.throws(() => read(BASE), { message: /--etcd-config is required/ });
  t.end();
});

test('enrollmentEnvironment() names what does not go together', (t) => {
  const cases: readonly [readonly string[], Record<string, string>, RegExp][] = [
    [[...ENROLS, '--etcd-config=/e'], {}, /--enrollment-address and --etcd-config do not/],
    [[...ENROLS, '--etcd-config', '/e'], {}, /--etcd-config do not/],
    [ENROLS, { ISTHMUS_CLUSTERMESH_CONFIG: '/p' }, /--clustermesh-config do not/],
    [[...ENROLS, '--registry-address=h:1'], {}, /--registry-address do not/],
    [[...ENROLS, '--machine'], {}, /--machine do not/],
    [ENROLS, { ISTHMUS_MACHINE: 'true' }, /--machine do not/],
    [ENROLS.slice(0, 1), {}, /--enrollment-address needs --enrollment-token-file/],
    [ENROLS.slice(0, 2), {}, /--enrollment-address needs --enrollment-trusted-ca-file/],
    [ENROLS.slice(1), {}, /--enrollment-token-file needs --enrollment-address/],
  ];
  for (const [argv, env, message] of cases) {
    t.throws(() => enrollmentEnvironment(argv, env), { code: 'usage', message }, String(message));
  }
  t.end();
});
