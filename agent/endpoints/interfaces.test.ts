import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readlinkSync } from 'node:fs';
import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createInterfaces } from './interfaces.ts';

const openInterfaces = () =>
  createInterfaces({ clock: systemClock, logger: createLogger('test', { level: 'silent' }) });
const ip = (...args: string[]): void => void execFileSync('ip', args);

const skip =
  process.geteuid?.() === 0 || process.env.CI === 'true'
    ? false
    : 'needs root to make network namespaces';

test("both ends of a container's veth are found", { skip }, async (t) => {
  const name = `ist${process.pid}`;
  ip('netns', 'add', name);
  t.teardown(() => ip('netns', 'del', name));
  ip(
    'link',
    'add',
    name,
    'type',
    'veth',
    'peer',
    'name',
    'eth0',
    'netns',
    name,
    'address',
    '02:00:00:00:00:07',
  );
  const interfaces = openInterfaces();
  const found = await interfaces.findVeth(`/run/netns/${name}`, 'eth0');
  t.match(found, { hostInterface: name, mac: '02:00:00:00:00:07' });
  t.equal((await interfaces.indexes()).get(name), found.ifindex);
  await t.rejects(interfaces.findVeth(`/run/netns/${name}`, 'lo'), {
    message: /interface lo in .* is not one end of a veth pair: chain after/,
  });
  await t.rejects(interfaces.findVeth(`/run/netns/${name}`, 'eth9'), {
    message: /cannot read interfaces: .*eth9/,
  });
  await t.rejects(interfaces.findVeth('/run/netns/nobody', 'eth0'), {
    message: /cannot read interfaces: .*nobody/,
  });
  ip('link', 'del', name);
  t.equal((await interfaces.indexes()).get(name), undefined);
});

test('interfaces in containers are found with their addresses, those that are known left out', {
  skip,
}, async (t) => {
  const name = `ist${process.pid}c`;
  ip('netns', 'add', name);
  t.teardown(() => ip('netns', 'del', name));
  const addVeth = (host: string, inside: string, ...addresses: string[]): void => {
    ip('link', 'add', host, 'type', 'veth', 'peer', 'name', inside, 'netns', name);
    ip('-n', name, 'link', 'set', inside, 'up');
    for (const address of addresses) ip('-n', name, 'address', 'add', address, 'dev', inside);
  };
  addVeth(`${name}a`, 'eth0', '10.99.1.5/24', 'fd99::5/64');
  addVeth(`${name}b`, 'net1', '10.99.2.5/24');
  // Both ends here: nobody's container.
  ip('link', 'add', `${name}x`, 'type', 'veth', 'peer', 'name', `${name}y`);
  t.teardown(() => ip('link', 'del', `${name}x`));
  const interfaces = openInterfaces();
  const indexes = await interfaces.indexes();
  const own = async (known: ReadonlySet<number>) =>
    (await interfaces.containers(known))
      .filter(({ hostInterface }) => hostInterface.startsWith(name))
      .sort((a, b) => (a.hostInterface < b.hostInterface ? -1 : 1));
  const found = await own(new Set());
  t.match(found, [
    { netns: `/run/netns/${name}`, ifName: 'eth0', addresses: ['10.99.1.5', 'fd99::5'] },
    { netns: `/run/netns/${name}`, ifName: 'net1', addresses: ['10.99.2.5'] },
  ]);
  t.equal(found[0]?.ifindex, indexes.get(`${name}a`));
  t.same(
    (await own(new Set([indexes.get(`${name}a`) ?? 0]))).map(({ ifName }) => ifName),
    ['net1'],
  );
});

test('a namespace without a name is found by a process in it, and by nothing but its number', {
  skip,
}, async (t) => {
  // Both are made with the same indexes, as containers are that have a node of their own.
  const name = `ist${process.pid}u`;
  for (const netns of [name, `${name}2`]) {
    ip('netns', 'add', netns);
    t.teardown(() => {
      try {
        execFileSync('ip', ['netns', 'del', netns], { stdio: 'ignore' });
      } catch {
        // Its name was taken away below.
      }
    });
  }
  ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
  const host = (await openInterfaces().indexes()).get(name) ?? 0;
  // A veth between two other namespaces, with the indexes that ours has.
  ip('netns', 'add', `${name}3`);
  t.teardown(() => ip('netns', 'del', `${name}3`));
  const peer = ['peer', 'name', 'eth0', 'index', '2', 'netns', `${name}2`];
  ip('-n', `${name}3`, 'link', 'add', 'other', 'index', String(host), 'type', 'veth', ...peer);
  for (const netns of [name, `${name}2`])
    ip('-n', netns, 'address', 'add', '10.99.3.5/24', 'dev', 'eth0');
  const sleeper = spawn('nsenter', [`--net=/run/netns/${name}`, 'sleep', '60']);
  t.teardown(() => sleeper.kill());
  await once(sleeper, 'spawn');
  const interfaces = openInterfaces();
  const find = async () =>
    (await interfaces.containers(new Set())).filter(({ hostInterface }) => hostInterface === name);
  t.match(await find(), [{ netns: `/run/netns/${name}` }], 'one, although two look alike');
  await until('the process is in it', () => {
    const own = readlinkSync('/proc/self/ns/net');
    return readlinkSync(`/proc/${sleeper.pid}/ns/net`) !== own;
  });
  ip('netns', 'del', name);
  t.match(await find(), [
    { netns: `/proc/${sleeper.pid}/ns/net`, ifName: 'eth0', addresses: ['10.99.3.5'] },
  ]);
});

test('that links come and go is told, and watching ends when asked', { skip }, async (t) => {
  const name = `ist${process.pid}w`;
  const ending = new AbortController();
  let told = 0;
  const watching = (async () => {
    for await (const _ of openInterfaces().changes(ending.signal)) told += 1;
  })();
  await until('it has begun, and looked once more', () => told >= 2);
  const before = told;
  ip('link', 'add', name, 'type', 'bridge');
  await until('a new link is told', () => told > before);
  const between = told;
  ip('link', 'del', name);
  await until('that it went is told', () => told > between);
  ending.abort();
  await watching;
  t.ok(told > between);
});
