import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { ClusterPodAddress } from './cluster-pods.ts';
import type { ContainerInterface } from './interfaces.ts';
import { matchPods } from './match-pods.ts';

function pod(name: string, address: string): ClusterPodAddress {
  return { podNamespace: 'demo', podName: name, address: parseIpAddress(address) };
}

function veth(number: number, ...addresses: string[]): ContainerInterface {
  return {
    netns: `/run/netns/n${number}`,
    ifName: 'eth0',
    hostInterface: `veth${number}`,
    ifindex: number,
    mac: '02:00:00:00:00:01',
    addresses: addresses.map(parseIpAddress),
  };
}

const PODS = [pod('a', '10.1.0.5'), pod('a', 'fd00::5'), pod('b', '10.1.0.6')];

const CASES: readonly {
  readonly name: string;
  readonly interfaces: readonly ContainerInterface[];
  readonly found: readonly string[];
  readonly problems?: readonly RegExp[];
}[] = [
  { name: 'nothing there', interfaces: [], found: [] },
  {
    name: 'both families of a pod, and another pod',
    interfaces: [veth(1, 'fd00::5', '10.1.0.5'), veth(2, '10.1.0.6')],
    found: ['veth1 demo/a 10.1.0.5,fd00::5', 'veth2 demo/b 10.1.0.6'],
  },
  {
    name: 'an address that the cluster does not give the pod is not its own',
    interfaces: [veth(1, '10.1.0.5', '10.99.0.1')],
    found: ['veth1 demo/a 10.1.0.5'],
  },
  {
    name: 'two interfaces of one pod',
    interfaces: [veth(1, '10.1.0.5'), veth(2, 'fd00::5')],
    found: ['veth1 demo/a 10.1.0.5', 'veth2 demo/a fd00::5'],
  },
  { name: 'a container that is no pod', interfaces: [veth(1, '172.17.0.2')], found: [] },
  {
    name: 'an address on two interfaces belongs to neither, the rest goes on',
    interfaces: [veth(1, '10.1.0.5', '10.1.0.6'), veth(2, '10.1.0.6')],
    found: ['veth1 demo/a 10.1.0.5'],
    problems: [/10\.1\.0\.6 of pod demo\/b is on several interfaces, veth1 and veth2/],
  },
  {
    name: 'addresses of two pods on one interface',
    interfaces: [veth(1, '10.1.0.5', '10.1.0.6')],
    found: [],
    problems: [/veth1 has addresses of several pods, demo\/a and demo\/b.*\/run\/netns\/n1/],
  },
];

for (const { name, interfaces, found, problems = [] } of CASES) {
  test(`matchPods(): ${name}`, async (t) => {
    const result = matchPods(PODS, interfaces);
    t.same(
      result.found.map(
        (one) =>
          `${one.hostInterface} ${one.podNamespace}/${one.podName} ${one.addresses.join(',')}`,
      ),
      found,
    );
    t.equal(result.problems.length, problems.length);
    for (const [index, problem] of problems.entries()) t.match(result.problems[index], problem);
  });
}
