import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import {
  type CheckResult,
  type HealthCheck,
  healthMessages,
  parseMachineConfig,
} from '../registry/session-machine.ts';
import { checkOnce, createHealthChecks } from './health-checks.ts';

const address = '127.0.0.1';
const TCP: HealthCheck = {
  check: 'tcp',
  kind: 'tcp',
  port: 1,
  path: '',
  periodMs: 500,
  timeoutMs: 2000,
  failures: 1,
};

test('checks say what is wrong, and never take longer than they may', async (t) => {
  const { signal } = new AbortController();
  const http = createHttpServer((request, response) => {
    if (request.url === '/never') return;
    response.statusCode = request.url === '/moved' ? 302 : request.url === '/bad' ? 500 : 200;
    response.end('x'.repeat(100_000));
  });
  await new Promise<void>((resolve) => http.listen(0, address, resolve));
  t.teardown(() => {
    http.closeAllConnections();
    http.close();
  });
  const { port } = http.address() as AddressInfo;
  const once = (changes: Partial<HealthCheck>) =>
    checkOnce({ ...TCP, port, ...changes }, { address, signal });
  t.equal(await once({}), undefined);
  t.equal(await once({ kind: 'http', path: '/' }), undefined);
  t.equal(await once({ kind: 'http', path: '/moved' }), undefined);
  t.equal(await once({ kind: 'http', path: '/bad' }), 'it answers with status 500');
  t.equal(await once({ kind: 'http', path: '/never', timeoutMs: 100 }), 'no answer within 100 ms');
  t.match(await once({ port: 1 }), /ECONNREFUSED/);
  t.match(await once({ kind: 'grpc' }), /kind "grpc" are not known/);
  t.match(await once({ kind: 'http', path: '/a b\n' }), /unescaped characters/);
});

test('results are told when they change, after as many failures as are allowed', {
  timeout: 60_000,
}, async (t) => {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(0, address, resolve));
  const { port } = server.address() as AddressInfo;
  const checks = createHealthChecks({ address: () => address, clock: systemClock });
  const ending = new AbortController();
  t.teardown(() => ending.abort());
  const running = checks.run(ending.signal);
  const told: CheckResult[] = [];
  const reader = (async () => {
    for await (const results of checks.results(ending.signal)) told.push(...results);
  })();
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await systemClock.sleep(10);
  };
  checks.set([
    { ...TCP, check: 'web', port, failures: 2 },
    { ...TCP, check: 'gone', port: 1 },
  ]);
  await until(() => told.length === 2);
  t.match(
    told.find(({ check }) => check === 'web'),
    { healthy: true, reason: '' },
  );
  t.match(
    told.find(({ check }) => check === 'gone'),
    { healthy: false, reason: /ECONNREFUSED/ },
  );
  t.match(checks.problems(), [/check gone fails: .*ECONNREFUSED/]);
  await new Promise((resolve) => server.close(resolve));
  await until(() => told.length === 3);
  t.match(told[2], { check: 'web', healthy: false });
  checks.set([{ ...TCP, check: 'web', port, failures: 2 }]);
  t.same(checks.problems().length, 1, 'a check that is not asked for any more has no result');
  // Who comes later is told everything.
  const later = checks.results(ending.signal);
  t.match((await later.next()).value, [{ check: 'web', healthy: false }]);
  await later.return();
  ending.abort();
  await Promise.all([running, reader]);
});

test('a configuration is brought within bounds', (t) => {
  const config = parseMachineConfig({
    peers: ['beta', 'Not A Cluster', 'gamma'],
    checks: [
      { check: 'a', kind: 'tcp', port: 80, period_ms: 1, timeout_ms: 10_000_000, failures: 0 },
    ],
    trust_bundle: Buffer.from('pem'),
  });
  t.same(config.peers, ['beta', 'gamma']);
  t.match(config.checks, [{ periodMs: 500, timeoutMs: 60_000, failures: 1, path: '/' }]);
  t.equal(config.trustBundle, 'pem');
  t.same(parseMachineConfig({}), {
    labels: {},
    namespace: '',
    peers: [],
    checks: [],
    trustBundle: '',
    issuer: '',
  });
  t.throws(() => parseMachineConfig({ checks: 'all' }));
  const results = Array.from({ length: 250 }, (_, index) => ({
    check: `${index}`,
    healthy: true,
    reason: '',
  }));
  t.same(healthMessages(results).length, 3);
  t.end();
});
