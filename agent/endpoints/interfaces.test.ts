import { execFileSync } from 'node:child_process';
import { test } from 'tap';
import { createInterfaces } from './interfaces.ts';

const skip =
  process.geteuid?.() === 0 || process.env.CI === 'true'
    ? false
    : 'needs root to make network namespaces';

test("both ends of a container's veth are found", { skip }, async (t) => {
  const name = `ist${process.pid}`;
  const ip = (...args: string[]): void => void execFileSync('ip', args);
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
  const interfaces = createInterfaces();
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
