import { test } from 'tap';
import { parseOptions } from '../../mesh/runtime/options.ts';
import { CONNTRACK_TIMEOUTS } from './desired.ts';
import { PATH_OPTIONS } from './path-options.ts';

const parse = (...argv: string[]) =>
  parseOptions(PATH_OPTIONS, argv, {}, { name: 'agent', description: 'Test.' });

test('PATH_OPTIONS: defaults are those of the datapath', async (t) => {
  t.strictSame(parse(), {
    routingMode: 'tunnel',
    hostRoutes: 'peers',
    mtu: undefined,
    overlaySourceCheck: 'cluster',
    ctTimeoutTcp: CONNTRACK_TIMEOUTS.tcp,
    ctTimeoutTcpSyn: CONNTRACK_TIMEOUTS.tcpSyn,
    ctTimeoutTcpFin: CONNTRACK_TIMEOUTS.tcpFin,
    ctTimeoutAny: CONNTRACK_TIMEOUTS.any,
    ctMax: 262_144,
    natMax: 131_072,
    conntrackGcInterval: 0,
  });
});

test('PATH_OPTIONS: as Cilium writes them', async (t) => {
  const values = parse('--routing-mode', 'native', '--bpf-ct-timeout-regular-tcp', '2h13m20s');
  t.match(values, { routingMode: 'native', ctTimeoutTcp: 8000 });
});

test('PATH_OPTIONS: what makes no sense is refused', async (t) => {
  for (const [flag, text, message] of [
    ['--routing-mode', 'direct', /expected one of tunnel, native/],
    ['--overlay-source-check', 'on', /expected one of off, cluster, strict/],
    ['--host-routes', 'own', /expected one of peers, all, off/],
    ['--mtu', '1279', /from 1280 to 65535/],
    ['--bpf-ct-timeout-regular-any', '0', /at least 1s/],
    ['--bpf-ct-timeout-regular-any', '1500ms', /whole seconds/],
    ['--conntrack-gc-interval', '10ms', /at least 1s, or 0/],
  ] as const) {
    t.throws(() => parse(flag, text), { message }, `${flag} ${text}`);
  }
});
