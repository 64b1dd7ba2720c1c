import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock, type ManualClock } from '../../mesh/testing/manual-clock.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { DatapathFirewall, FirewallCall, FirewallMode } from '../datapath/firewall.ts';
import { FIREWALL_FILE, readFirewallFile } from './firewall-file.ts';
import { answerFirewall } from './firewall-requests.ts';
import { createPlaceFinder, type PlaceFinder, readResolvers } from './fixed-places.ts';
import { fixedCalls } from './fixed-rules.ts';
import { createHostFirewall, type HostFirewall } from './host-firewall.ts';

const SILENT = createLogger('test', { level: 'silent' });
const TRIAL = { adminPorts: [22], confirmWithinSeconds: 60 };

/** The kernel's side, which does what it is told. */
function createKernel(options: { hadTrial?: boolean } = {}) {
  let mode: FirewallMode = { kind: 'off' };
  const kernel: DatapathFirewall & {
    open: readonly FirewallCall[];
    followed: number;
    failure: Error | undefined;
  } = {
    open: [],
    followed: 0,
    failure: undefined,
    hadTrial: options.hadTrial ?? false,
    mode: () => mode,
    setOpen(calls) {
      if (kernel.failure !== undefined) throw kernel.failure;
      kernel.open = calls;
    },
    async follow() {
      kernel.followed += 1;
      return { judged: ['eth0'], unjudged: [{ name: 'wg0', reason: 'it is of type none' }] };
    },
    switchOn(untilNs) {
      mode = { kind: 'on', untilNs };
    },
    switchOff() {
      mode = { kind: 'off' };
    },
  };
  return kernel;
}

interface Rig {
  readonly firewall: HostFirewall;
  readonly kernel: ReturnType<typeof createKernel>;
  readonly clock: ManualClock;
  readonly stateDir: string;
  /** What was resolved last, by name. */
  readonly names: Map<string, string[]>;
  /** Begins to run; returns how to end it. */
  run(): () => Promise<void>;
  /** The same state directory, and a new process. */
  restart(kernel?: ReturnType<typeof createKernel>): Rig;
}

function makeRig(
  stateDir: string,
  { kernel = createKernel(), isKnown = true, clock = createManualClock() } = {},
): Rig {
  const names = new Map([['registry.example', ['192.0.2.7']]]);
  const places: PlaceFinder = createPlaceFinder({
    servers: () => [{ host: 'registry.example', port: 2381 }],
    resolve: async (host) => {
      const found = names.get(host);
      if (found === undefined) throw new Error(`${host} is not known`);
      return found.map(parseIpAddress);
    },
    resolverFiles: [],
    clock,
  });
  const firewall = createHostFirewall({
    kernel,
    stateDir,
    stored: readFirewallFile(stateDir),
    places,
    async *watchLinks(signal) {
      yield 'changed';
      while (!signal.aborted) await clock.sleep(1_000_000, signal).catch(() => undefined);
    },
    host: () =>
      isKnown ? { ingressEnforced: true, egressEnforced: false, policies: ['shop/db'] } : undefined,
    kernelNow: () => BigInt(Math.round(clock.monotonic() * 1e6)),
    clock,
    logger: SILENT,
  });
  return {
    firewall,
    kernel,
    clock,
    stateDir,
    names,
    run() {
      const ending = new AbortController();
      const running = firewall.run(ending.signal);
      return async () => {
        ending.abort();
        await running;
      };
    },
    restart: (next = createKernel()) => makeRig(stateDir, { kernel: next, clock }),
  };
}

test('a trial ends by itself, by a clock that nobody sets', async (t) => {
  await using dir = await openTempDir('firewall');
  const { firewall, kernel, clock, run } = makeRig(dir.path);
  const end = run();
  await firewall.enable(TRIAL);
  t.match(firewall.report(), { mode: 'trial', endsInMs: 60_000, devices: ['eth0'] });
  t.strictSame(kernel.mode(), { kind: 'on', untilNs: 60_000_000_000n }, 'the kernel knows the end');
  t.match(firewall.problems(), [/does not judge what passes wg0/]);
  await clock.advance(59_999);
  t.match(firewall.report(), { mode: 'trial', endsInMs: 1 });
  await clock.advance(1);
  t.match(firewall.report(), { mode: 'default', devices: [] });
  t.strictSame(kernel.mode(), { kind: 'off' });
  t.match(firewall.problems(), [/taken back: nobody confirmed it in time/], 'loudly');
  await t.rejects(firewall.confirm(), { code: 'state', message: /nothing is to be confirmed/ });
  t.strictSame(readFirewallFile(dir.path), { kind: 'none' }, 'nothing was kept');
  await firewall.enable(TRIAL);
  t.notMatch(firewall.problems().join(), /taken back/, 'a new trial is a new matter');
  await end();
  t.strictSame(kernel.mode(), { kind: 'off' }, 'and ends with the agent');
  t.match(firewall.problems(), [/the agent ended before anybody confirmed it/]);
});

test('a trial ends although timers are early', async (t) => {
  await using dir = await openTempDir('firewall');
  const manual = createManualClock();
  const clock: ManualClock = {
    ...manual,
    sleep: (ms, signal) => manual.sleep(Math.max(0.5, ms - 1), signal),
  };
  const { firewall, run } = makeRig(dir.path, { clock });
  const end = run();
  await firewall.enable(TRIAL);
  await manual.advance(59_999);
  t.match(firewall.report(), { mode: 'trial' });
  await manual.advance(5);
  t.match(firewall.report(), { mode: 'default' });
  await end();
});

test('confirmed: kept over restarts', async (t) => {
  await using dir = await openTempDir('firewall');
  const rig = makeRig(dir.path);
  const end = rig.run();
  await rig.firewall.enable({ ...TRIAL, adminPorts: [22, 2222] });
  await rig.clock.advance(30_000);
  await rig.firewall.confirm();
  await rig.firewall.confirm();
  t.match(rig.firewall.report(), { mode: 'full', adminPorts: [22, 2222] });
  t.strictSame(rig.kernel.mode(), { kind: 'on', untilNs: undefined }, 'the kernel forgets the end');
  await rig.clock.advance(120_000);
  t.match(rig.firewall.report(), { mode: 'full' });
  const file = join(dir.path, FIREWALL_FILE);
  t.equal(statSync(file).mode & 0o777, 0o600);
  await t.rejects(rig.firewall.enable(TRIAL), { code: 'state', message: /is full already/ });
  await end();
  t.match(rig.kernel.mode(), { kind: 'on' }, 'the agent ends, the firewall stays');

  const next = rig.restart();
  t.match(next.firewall.report(), { mode: 'full', adminPorts: [22, 2222] });
  await next.firewall.disable();
  t.strictSame(next.kernel.mode(), { kind: 'off' });
  t.match(next.restart().firewall.report(), { mode: 'default', problems: [] });
  await next.firewall.disable();
});

test('what is left of a trial, or cannot be read, is default mode and a problem', async (t) => {
  await using dir = await openTempDir('firewall');
  const killed = makeRig(dir.path, { kernel: createKernel({ hadTrial: true }) });
  t.match(killed.firewall.report(), {
    mode: 'default',
    problems: [/the agent ended before anybody confirmed it/],
  });
  const good = { schema: 1, mode: 'full', adminPorts: [22], confirmedAt: '2026-11-22T00:00:00Z' };
  for (const [what, content] of [
    ['half of it', JSON.stringify(good).slice(0, 30)],
    ['nothing', ''],
    ['another schema', JSON.stringify({ ...good, schema: 2 })],
    ['no way in', JSON.stringify({ ...good, adminPorts: [] })],
    ['a port that is none', JSON.stringify({ ...good, adminPorts: [70_000] })],
  ] as const) {
    writeFileSync(join(dir.path, FIREWALL_FILE), content);
    const rig = makeRig(dir.path);
    t.match(rig.firewall.report(), { mode: 'default', problems: [/cannot use .*json/] }, what);
  }
  const rig = makeRig(dir.path);
  await rig.firewall.disable();
  t.match(rig.restart().firewall.report(), { mode: 'default', problems: [] }, 'disable clears it');
});

test('what cannot be done changes nothing', async (t) => {
  await using dir = await openTempDir('firewall');
  const early = makeRig(dir.path, { isKnown: false });
  await t.rejects(early.firewall.enable(TRIAL), { code: 'not-ready', retryable: true });
  const rig = makeRig(dir.path);
  rig.kernel.failure = new Error('the map is full');
  await t.rejects(rig.firewall.enable(TRIAL), { code: 'not-ready', message: /the map is full/ });
  t.strictSame(rig.kernel.mode(), { kind: 'off' });
  rig.kernel.failure = undefined;
  await rig.firewall.enable(TRIAL);
  await t.rejects(rig.firewall.enable(TRIAL), { code: 'state', message: /tried out already/ });

  const lost = makeRig(join(dir.path, 'gone'));
  await lost.firewall.enable(TRIAL);
  await t.rejects(lost.firewall.confirm(), { code: 'disk' });
  t.match(lost.firewall.report(), { mode: 'trial' }, 'what cannot be kept is not confirmed');
});

test("servers are found again by name, and a name's former addresses stay for a while", async (t) => {
  await using dir = await openTempDir('firewall');
  const { firewall, kernel, clock, names, run } = makeRig(dir.path);
  const servers = () =>
    kernel.open.filter(({ port }) => port === 2381).map(({ peer }) => String(peer));
  const end = run();
  await firewall.enable(TRIAL);
  await firewall.confirm();
  t.strictSame(servers(), ['192.0.2.7']);
  names.set('registry.example', ['192.0.2.8', '2001:db8::8']);
  await clock.advance(10_000);
  t.strictSame(servers(), ['192.0.2.7', '192.0.2.8', '2001:db8::8']);
  const { fixed } = firewall.describe();
  const cluster = fixed.find(({ name }) => name === 'cluster');
  t.match(cluster?.calls, ['egress TCP 192.0.2.7:2381', 'egress TCP 192.0.2.8:2381']);
  names.delete('registry.example');
  await clock.advance(7_200_000);
  t.equal(servers().length, 3, 'while nobody can say, nothing is closed');
  t.match(firewall.problems().join(), /cannot find registry\.example/);
  names.set('registry.example', ['192.0.2.8']);
  await clock.advance(20_000);
  t.strictSame(servers(), ['192.0.2.8']);
  await end();
});

test('resolvers are those of resolv.conf, but for loopback', async (t) => {
  await using dir = await openTempDir('firewall');
  const file = join(dir.path, 'resolv.conf');
  writeFileSync(
    file,
    '# nameserver 192.0.2.1\nnameserver 127.0.0.53\n nameserver 192.0.2.53 # ours\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nnameserver ::1\nsearch nameserver\nnameserver no\n',
  );
  t.strictSame(readResolvers(file), ['192.0.2.53', 'fe80::1', '2001:db8::53']);
  t.strictSame(readResolvers(join(dir.path, 'none')), []);
  t.ok(readFileSync(file, 'utf8'));
});

test('calls of the list are named once each', (t) => {
  const places = {
    adminPorts: [22],
    servers: [
      { address: parseIpAddress('192.0.2.7'), port: 2381 },
      { address: parseIpAddress('192.0.2.7'), port: 2381 },
    ],
    resolvers: [],
  };
  t.strictSame(
    fixedCalls(places).map(({ direction, protocol, port }) => `${direction} ${protocol} ${port}`),
    ['ingress TCP 22', 'egress TCP 2381', 'egress UDP 123'],
  );
  t.end();
});

test('the socket answers in words', async (t) => {
  await using dir = await openTempDir('firewall');
  const { firewall } = makeRig(dir.path);
  const post = (body: string, to: HostFirewall | undefined = firewall) =>
    answerFirewall({ method: 'POST', body: async () => body }, to);
  for (const body of ['', '{}', '{"action":"enable","adminPorts":[]}', '{"action":"on"}']) {
    t.match(await post(body), { status: 400, body: { error: /cannot read the question/ } }, body);
  }
  for (const seconds of [0, 4, 3601, 7.5]) {
    const body = JSON.stringify({ action: 'enable', confirmWithinSeconds: seconds });
    t.match(await post(body), { status: 400, body: { error: /confirmWithinSeconds/ } });
  }
  t.match(await post('{"action":"confirm"}'), { status: 409 });
  t.match(await post('{"action":"enable"}'), { status: 200, body: { mode: 'trial' } });
  t.match(await post('{"action":"confirm"}'), { status: 200, body: { mode: 'full' } });
  const node = await answerFirewall({ method: 'GET', body: async () => '' }, undefined);
  t.match(node, { status: 409, body: { error: /is for machines/ } });
});
