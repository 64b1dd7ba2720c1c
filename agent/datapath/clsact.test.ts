import { execFileSync } from 'node:child_process';
import { test } from 'tap';
import { ALL_SWITCHES } from './kernel-switches.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { HOST_INTERFACE, openDatapathProcess, openTestNodes, runIn } from './testing/nodes.ts';

const skip = kernelSkipReason();
/** Linux 5.10, as far as the datapath can tell. */
const OLD_KERNEL = { ...ALL_SWITCHES, coarseClock: false, setRetval: false, tcx: false };

test('a kernel without tcx links, coarse clock and set_retval: filters of clsact', {
  skip,
}, async (t) => {
  await using lab = await openTestNodes();
  const [one] = lab.nodes;
  const options = { kernel: OLD_KERNEL };
  const inNode = (...args: string[]): string =>
    execFileSync('ip', ['netns', 'exec', one.namespace, ...args], { encoding: 'utf8' });
  const filters = (side: 'ingress' | 'egress', device = HOST_INTERFACE): string =>
    inNode('tc', 'filter', 'show', 'dev', device, side);
  const ping = (address: string) => runIn(one.namespace, ['ping', '-c', '1', '-W', '2', address]);

  const first = await openDatapathProcess(one, options);
  await first.request({ attach: [HOST_INTERFACE], endpoints: [one.endpoint()] });
  t.match(filters('ingress'), /bpf .*direct-action/);
  t.match(filters('egress'), /bpf .*direct-action/);
  t.match(filters('ingress', 'isthmus_vxlan'), /bpf/);
  t.equal((await ping(one.podIp)).code, 0);
  t.equal((await ping(one.podIp6)).code, 0);
  const counted = await first.request({ look: [HOST_INTERFACE] });
  if ('error' in counted) throw new Error(counted.error);
  t.ok((counted.counters['forwarded ingress'] ?? 0) >= 2, 'packets pass the programs');
  t.same(counted.detached, []);
  await first.kill();
  t.equal((await ping(one.podIp)).code, 0, 'filters outlive the process');

  await using second = await openDatapathProcess(one, options);
  await second.request({ attach: [HOST_INTERFACE] });
  t.equal(filters('ingress').match(/handle 0x4953/g)?.length, 1, 'replaced, not doubled');

  // What "tc qdisc del" takes away is noticed, and comes back.
  inNode('tc', 'qdisc', 'del', 'dev', HOST_INTERFACE, 'clsact');
  t.match(await second.request({ look: [HOST_INTERFACE] }), {
    detached: [/endpoint on pod\.0 is not attached/],
  });
  t.match(await second.request({ heal: [HOST_INTERFACE], look: [HOST_INTERFACE] }), {
    healed: [/attached to the endpoint on pod\.0 again/],
    detached: [],
  });
  t.match(filters('egress'), /direct-action/);

  await second.request({ uninstall: true });
  t.equal(filters('ingress'), '');
  t.notMatch(inNode('tc', 'qdisc', 'show', 'dev', HOST_INTERFACE), /clsact/, 'nothing is left');
});
