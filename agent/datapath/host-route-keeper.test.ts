import { test } from 'tap';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { type IpPrefix, parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { HostRanges } from '../merge/host-ranges.ts';
import { DatapathError } from './datapath-error.ts';
import type { IpcacheEntry } from './desired.ts';
import { createHostRouteKeeper } from './host-route-keeper.ts';
import type { HostRouteResult } from './host-routes.ts';

const prefixes = (...texts: string[]): IpPrefix[] => texts.map(parseIpPrefix);

const row = (prefix: string, tunnelEndpoint?: string): IpcacheEntry => ({
  prefix: parseIpPrefix(prefix),
  identity: parseNumericIdentity(131_372),
  tunnelEndpoint: tunnelEndpoint === undefined ? undefined : parseIpAddress(tunnelEndpoint),
  clusterId: 2,
});

function openRig() {
  const lines: string[] = [];
  const clock = createManualClock();
  const syncs: (readonly IpPrefix[])[] = [];
  const told: IpPrefix[] = [];
  const rig = {
    clock,
    lines,
    syncs,
    told,
    wanted: prefixes('10.2.0.0/24'),
    forgotten: false,
    unwanted: prefixes(),
    /** Whether each call took the routes as the one before had left them. */
    remembered: [] as boolean[],
    kept: new Set<IpPrefix>() as ReadonlySet<IpPrefix>,
    failure: undefined as Error | undefined,
    desired: [] as IpcacheEntry[],
    adopted: [] as IpcacheEntry[],
    /** Rows of `adopted` that were looked at. */
    read: 0,
    ending: new AbortController(),
  };
  const ranges: HostRanges = {
    setNode: () => true,
    setRow(entry) {
      told.push(entry.prefix);
      return true;
    },
    removeRow: () => false,
    wanted: () => ({ prefixes: rig.wanted, problems: ['a network overlaps'] }),
    takeForgotten() {
      const was = rig.forgotten;
      rig.forgotten = false;
      return was;
    },
  };
  const keeper = createHostRouteKeeper({
    ranges,
    routes: {
      async sync({ wanted, keep, remembers = false }): Promise<HostRouteResult> {
        syncs.push(wanted);
        rig.remembered.push(remembers);
        if (rig.failure !== undefined) throw rig.failure;
        rig.kept = await keep(rig.unwanted);
        return { added: 1, removed: 0, kept: rig.kept.size, problems: ['no IPv6'] };
      },
    },
    clock,
    logger: createLogger('test', { destination: { write: (line) => void lines.push(line) } }),
  });
  const rows = {
    desired: () => rig.desired,
    *adopted() {
      for (const entry of rig.adopted) {
        rig.read += 1;
        yield entry;
      }
    },
  };
  return { ...rig, rig, keeper, run: () => keeper.run(rows, rig.ending.signal) };
}

test('createHostRouteKeeper() makes what is wanted, at changes and from time to time', async (t) => {
  const { rig, keeper, clock, syncs, lines, run } = openRig();
  const running = run();
  await clock.advance(0);
  t.strictSame(syncs.splice(0), [prefixes('10.2.0.0/24')], 'at once');
  t.strictSame(keeper.problems(), ['a network overlaps', 'no IPv6']);
  t.match(lines, [/"added":1.*routes of the node to other clusters changed/]);

  t.notOk(keeper.isBehind());

  await clock.advance(1000);
  t.strictSame(syncs, [], 'then it waits');
  rig.wanted = prefixes('10.2.0.0/24', '10.3.0.0/24');
  for (let index = 0; index < 50; index += 1) {
    keeper.setRow(parseIpPrefix('10.3.0.7'), row('10.3.0.7', '192.0.2.3'));
  }
  t.ok(keeper.isBehind(), 'until they were looked at');
  await clock.advance(100);
  t.strictSame(syncs.splice(0), [rig.wanted], 'a crowd of changes is one look');
  t.notOk(keeper.isBehind());
  await clock.advance(10_100);
  t.equal(syncs.splice(0).length, 1, 'somebody may have taken routes away');

  keeper.setRow(parseIpPrefix('10.3.0.7'), undefined);
  await clock.advance(200);
  t.strictSame(syncs, [], 'what changes nothing costs nothing');
  rig.ending.abort();
  await clock.advance(0);
  await running;
});

test('createHostRouteKeeper() keeps routes to where somebody of an earlier process lives', async (t) => {
  const { rig, clock, keeper, run } = openRig();
  rig.unwanted = prefixes('10.4.0.0/24', '10.5.0.0/24', 'fd04::/64');
  rig.adopted = [
    row('10.4.0.9/32', '192.0.2.4'),
    row('fd04::9/128', '192.0.2.4'),
    row('10.5.0.1/32'),
  ];
  const running = run();
  await clock.advance(0);
  t.strictSame([...rig.kept].sort(), rig.unwanted, 'at first nobody has had time to say anything');
  await clock.advance(10_100);
  t.strictSame([...rig.kept].sort(), prefixes('10.4.0.0/24', 'fd04::/64'));
  rig.wanted = prefixes('10.4.0.0/24');
  rig.adopted = [];
  keeper.setNode({ name: 'beta' as never, own: false }, 'beta-1', undefined);
  await clock.advance(200);
  t.strictSame([...rig.kept], prefixes('10.4.0.0/24'), 'until its cluster has spoken');
  rig.ending.abort();
  await clock.advance(0);
  await running;
});

test('createHostRouteKeeper() reads neither routes nor rows while nodes come and come', async (t) => {
  const { rig, clock, keeper, syncs, run } = openRig();
  const count = 10_000;
  rig.unwanted = prefixes('10.4.0.0/24', '10.5.0.0/24');
  rig.adopted = Array.from({ length: count }, (_, index) =>
    row(`10.4.${index >> 8}.${index & 255}/32`, '192.0.2.4'),
  );
  const running = run();
  for (let time = 0; time < 9000; time += 50) {
    keeper.setNode({ name: 'beta' as never, own: false }, `beta-${time}`, undefined);
    await clock.advance(50);
  }
  t.ok(syncs.length <= 12, `${syncs.length} looks: they become rarer`);
  t.ok(syncs.length >= 5, 'but do not cease');
  t.equal(rig.remembered.filter((remembers) => !remembers).length, 1, 'routes are read once');
  t.ok(rig.read < count / 10, `${rig.read} rows of an earlier process were looked at`);
  t.strictSame([...rig.kept], rig.unwanted);

  await clock.advance(12_000);
  t.equal(rig.remembered.filter((remembers) => !remembers).length, 2, 'and again after a while');
  t.strictSame([...rig.kept], prefixes('10.4.0.0/24'), 'then it is found out who lives where');
  const looks = syncs.length;
  keeper.setRow(parseIpPrefix('10.3.0.7'), row('10.3.0.7', '192.0.2.3'));
  await clock.advance(150);
  t.equal(syncs.length, looks + 1, 'a change that comes alone is not kept waiting');
  rig.ending.abort();
  await clock.advance(0);
  await running;
});

test('createHostRouteKeeper() keeps what is said again while it looks who lives there', async (t) => {
  const { rig, clock, syncs, run } = openRig();
  rig.unwanted = prefixes('10.4.0.0/24', '10.5.0.0/24');
  rig.adopted = Array.from({ length: 5000 }, (_, index) =>
    row(`10.6.${index >> 8}.${index & 255}/32`, '192.0.2.4'),
  );
  // The walk pauses after some thousand rows, and then the network has become one that is wanted.
  const wantedBy = (): IpPrefix[] => (rig.read > 4096 ? prefixes('10.4.0.0/24') : []);
  Object.defineProperty(rig, 'wanted', { get: wantedBy });
  const running = run();
  await clock.advance(10_100);
  t.strictSame(syncs.at(-1), [], 'it was not wanted when the look began');
  t.strictSame([...rig.kept], prefixes('10.4.0.0/24'));
  rig.ending.abort();
  await clock.advance(0);
  await running;
});

test('createHostRouteKeeper() tells rows again when a network has gone', async (t) => {
  const { rig, clock, told, keeper, run } = openRig();
  const running = run();
  await clock.advance(0);
  t.strictSame(told, []);
  rig.desired = [row('10.2.0.7/32', '192.0.2.2'), row('10.2.0.8/32', '192.0.2.2')];
  rig.forgotten = true;
  keeper.setNode({ name: 'beta' as never, own: false }, 'beta-1', undefined);
  await clock.advance(200);
  t.strictSame(told, prefixes('10.2.0.7', '10.2.0.8'));
  rig.ending.abort();
  await clock.advance(0);
  await running;
});

test('createHostRouteKeeper() says what fails, and tries again', async (t) => {
  const { rig, clock, keeper, lines, syncs, run } = openRig();
  rig.failure = new DatapathError('device-failed', 'cannot list routes of x: no such device');
  const running = run();
  await clock.advance(0);
  t.strictSame(keeper.problems(), [
    'routes to other clusters: cannot list routes of x: no such device',
  ]);
  t.match(lines, [/routes to other clusters cannot be kept/]);
  await clock.advance(30_000);
  t.match(lines, [/./], 'told once');
  t.ok(syncs.length >= 3);
  rig.failure = undefined;
  await clock.advance(10_100);
  t.strictSame(keeper.problems(), ['a network overlaps', 'no IPv6']);
  rig.ending.abort();
  await clock.advance(0);
  await running;
});
