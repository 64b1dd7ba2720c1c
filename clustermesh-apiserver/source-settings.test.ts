import { test } from 'tap';
import { parseOptions } from '../mesh/runtime/options.ts';
import { APISERVER_OPTIONS } from './options.ts';
import { controllersSettings, sourceSettings } from './source-settings.ts';

const parse = (...argv: string[]) =>
  parseOptions(
    APISERVER_OPTIONS,
    [
      '--cluster-name=alpha',
      '--cluster-id=1',
      '--tls-cert-file=c',
      '--tls-key-file=k',
      '--trusted-ca-file=a',
      ...argv,
    ],
    {},
  );

test('sourceSettings() reads manifests or an API server, as the mode says', async (t) => {
  t.same(sourceSettings(parse('--manifests=/m')), { manifests: '/m' });
  t.match(sourceSettings(parse()), { manifests: undefined, kubernetes: { mode: 'auto' } });
  t.match(sourceSettings(parse('--mode=cilium', '--kubeconfig=/k', '--kubernetes-context=x')), {
    kubernetes: { mode: 'cilium', kubeconfig: '/k', context: 'x', serviceExports: false },
  });
  t.match(sourceSettings(parse('--mode=any-cni', '--clustermesh-enable-mcs-api')), {
    kubernetes: { mode: 'any-cni', kubeconfig: undefined, serviceExports: true },
  });
});

test('sourceSettings() refuses what does not go together', async (t) => {
  const cases: readonly [string[], RegExp][] = [
    [['--mode=standalone'], /--mode=standalone needs --manifests/],
    [['--manifests=/m', '--kubeconfig=/k'], /--kubeconfig is for the modes/],
    [['--manifests=/m', '--mode=cilium'], /--manifests is for --mode=standalone/],
  ];
  for (const [argv, message] of cases) {
    t.throws(() => sourceSettings(parse(...argv)), { name: 'OptionsError', exitCode: 2, message });
  }
  t.throws(() => parse('--mode=else'), { message: /--mode: .*standalone, cilium, any-cni, auto/ });
  t.throws(() => parse('--labels=k8s:!'), { message: /--labels: cannot use label expression/ });
});

test('controllersSettings() writes only what was asked for', async (t) => {
  t.equal(controllersSettings(parse()), undefined);
  t.equal(controllersSettings(parse('--clustermesh-enable-mcs-api=false')), undefined);
  t.match(controllersSettings(parse('--clustermesh-config=/c', '--clustermesh-enable-mcs-api')), {
    directory: '/c',
    endpointSliceSync: undefined,
    mcs: { installCrds: true, syncSlices: false },
    leaseTimes: { durationMs: 15_000, renewDeadlineMs: 10_000, retryMs: 2_000 },
  });
  t.match(
    controllersSettings(
      parse(
        '--clustermesh-config=/c',
        '--clustermesh-enable-endpoint-sync=true',
        '--clustermesh-enable-mcs-api',
        '--clustermesh-mcs-api-install-crds=false',
        '--clustermesh-mcs-api-endpoint-slices=all',
      ),
    ),
    {
      endpointSliceSync: { batchMs: 500, maxEndpoints: 100, workers: 5 },
      mcs: { installCrds: false, syncSlices: true },
    },
  );
  t.match(controllersSettings(parse('--enable-policy-status')), {
    directory: undefined,
    endpointSliceSync: undefined,
    mcs: undefined,
    policyStatus: true,
  });
  t.equal(
    controllersSettings(parse('--mode=cilium', '--clustermesh-enable-mcs-api')),
    undefined,
    'exports of a cluster that Cilium runs need no peers',
  );
});

test('controllersSettings() refuses what cannot work', async (t) => {
  const sync = '--clustermesh-enable-endpoint-sync';
  const cases: readonly [string[], RegExp][] = [
    [[sync], /--clustermesh-enable-endpoint-sync needs --clustermesh-config/],
    [['--clustermesh-enable-mcs-api'], /--clustermesh-enable-mcs-api needs --clustermesh-config/],
    [[sync, '--clustermesh-config=/c', '--manifests=/m'], /needs an API server/],
    [['--enable-policy-status', '--manifests=/m'], /--enable-policy-status needs an API server/],
    [['--enable-policy-status', sync], /--clustermesh-enable-endpoint-sync needs --clustermesh/],
    [
      [sync, '--clustermesh-config=/c', '--leader-election-renew-deadline=20s'],
      /--leader-election-renew-deadline must be less/,
    ],
  ];
  for (const [argv, message] of cases) {
    t.throws(() => controllersSettings(parse(...argv)), { name: 'OptionsError', message });
  }
});
