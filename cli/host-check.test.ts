import { createServer } from 'node:net';
import { test } from 'tap';
import type { Surroundings } from '../agent/machine/surroundings.ts';
import { parseIpAddress, parseIpPrefix } from '../mesh/wire/ip.ts';
import { checkHost } from './host-check.ts';

const { signal } = new AbortController();

/** A host on which all is well. */
function host(changes: Partial<Surroundings> = {}): Surroundings {
  return {
    userId: 0,
    now: () => Date.now(),
    datapathProblems: () => [],
    ownAddresses: () => [
      {
        address: parseIpAddress('192.0.2.1'),
        network: parseIpPrefix('192.0.2.0/24'),
        interfaceName: 'eth0',
      },
    ],
    mtus: async () => new Map(),
    resolve: async () => [],
    routeTo: async () => ({ interfaceName: 'eth0', source: parseIpAddress('192.0.2.1') }),
    connectProblem: async () => undefined,
    udpPortHolder: () => undefined,
    freeBytes: () => 2 ** 40,
    isAgentAnswering: async () => false,
    namesIn: () => [],
    kubeProxy: async () => undefined,
    ...changes,
  };
}

async function problemsOf(
  changes: Partial<Surroundings>,
  ports: readonly number[] = [],
): Promise<string[]> {
  const checks = await checkHost({
    objectDir: '/nowhere',
    ports: ports.map((port) => ({ port, what: 'a test' })),
    surroundings: host(changes),
    signal,
  });
  return checks
    .flatMap(({ problem }) =>
      problem === undefined ? [] : [`${problem.severity} ${problem.id}: ${problem.cause}`],
    )
    .filter((text) => !text.includes('clock-skew'));
}

test('checkHost() has nothing to say of a host on which all is well', async (t) => {
  t.same(await problemsOf({}), []);
});

test('checkHost() names what a host lacks', async (t) => {
  t.match(await problemsOf({ userId: 1000 }), [/^error host-permission: this is user 1000/]);
  t.match(await problemsOf({ datapathProblems: () => ['no bpffs is mounted', 'tcx is missing'] }), [
    /^error host-mount: no bpffs/,
    /^error host-kernel: tcx/,
  ]);
  t.match(await problemsOf({ udpPortHolder: () => 'process 7 (flanneld)' }), [
    /^error host-port: UDP 8472 is held by process 7 \(flanneld\)/,
  ]);
  t.same(await problemsOf({ udpPortHolder: () => 'the interface isthmus_vxlan' }), []);
  t.match(await problemsOf({ ownAddresses: () => [] }), [/^error underlay-blocked/]);
  t.match(await problemsOf({ namesIn: () => ['10-calico.conflist'] }), [
    /^warning host-cni: .*10-calico\.conflist/,
  ]);
});

test('checkHost() finds ports that are taken', async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '::', resolve));
  t.teardown(() => server.close());
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  t.match(await problemsOf({}, [port]), [/^error host-port: TCP \d+, for a test, .*EADDRINUSE/]);
});
