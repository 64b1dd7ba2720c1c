import { readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { clusterObjects, manifestFile, podObject } from './kubernetes-object.ts';
import { planLab } from './plan.ts';
import { parsePod, parseTopology, parseTopologyText, type TopologyInput } from './topology.ts';

const EXAMPLE = 'e2e/topologies/two-clusters.yaml';
const SMALL: TopologyInput = {
  clusters: [
    { name: 'a', id: 1, podCidrs: ['10.1.0.0/16'], serviceCidrs: ['10.9.0.0/16'], nodes: ['a1'] },
  ],
};
const small = SMALL.clusters[0]!;

test('the example topology gives distinct addresses', (t) => {
  const topology = parseTopologyText(readFileSync(projectPath(EXAMPLE), 'utf8'), EXAMPLE);
  const plan = planLab(topology, { name: 'x', cgroupRoot: '/cg' });
  t.same(
    plan.nodes.map(({ addresses, podCidrs }) => [...addresses, ...podCidrs]),
    [
      ['172.31.0.1', 'fd00:31::1', '10.1.1.0/24', 'fd00:10:1:1::/64'],
      ['172.31.0.2', 'fd00:31::2', '10.1.2.0/24', 'fd00:10:1:2::/64'],
      ['172.31.0.3', 'fd00:31::3', '10.2.1.0/24', 'fd00:10:2:1::/64'],
      ['172.31.0.4', 'fd00:31::4', '10.2.2.0/24', 'fd00:10:2:2::/64'],
    ],
  );
  t.same(
    plan.clusters.map(({ services }) => services[0]?.clusterIps),
    [
      ['10.101.0.10', 'fd00:101::a'],
      ['10.102.0.10', 'fd00:102::a'],
    ],
  );
  t.equal(plan.pods[0]?.cgroup, '/cg/isthmus-lab-x/alpha-1/pod-client');
  t.end();
});

test('parseTopology() names what is wrong', (t) => {
  const cases: [string, unknown, RegExp][] = [
    ['no clusters', { clusters: [] }, /clusters: /],
    ['an unknown field', { ...SMALL, pod: [] }, /"pod"/],
    ['a bad id', { clusters: [{ ...small, id: 512 }] }, /clusters\.0\.id/],
    [
      'equal ids',
      { clusters: [small, { ...small, name: 'b', nodes: ['b1'] }] },
      /cluster id 1 is there twice/,
    ],
    ['equal nodes', { clusters: [{ ...small, nodes: ['n', 'n'] }] }, /node n is there twice/],
    ['mcs of files', { clusters: [{ ...small, mcs: true }] }, /mcs needs objects: kubernetes/],
    ['a pod nowhere', { ...SMALL, pods: [{ name: 'p', node: 'zz' }] }, /no node is named zz/],
    [
      'a service nowhere',
      {
        ...SMALL,
        services: [
          { name: 's', clusters: ['zz'], selector: {}, ports: [{ port: 1, targetPort: 1 }] },
        ],
      },
      /service s: no cluster is named zz/,
    ],
    ['a text', 'clusters', /the whole/],
  ];
  for (const [what, value, message] of cases) {
    t.throws(() => parseTopology(value, 'file.yaml'), { code: 'topology', message }, what);
    t.throws(() => parseTopology(value, 'file.yaml'), /cannot use file\.yaml/, what);
  }
  t.throws(() => parseTopologyText('clusters: [', 'file.yaml'), {
    code: 'topology',
    message: /cannot parse file\.yaml: /,
  });
  t.end();
});

test('planLab() refuses names and ranges that cannot work', (t) => {
  const plan = (input: TopologyInput, name = 'x') =>
    planLab(parseTopology(input), { name, cgroupRoot: '/cg' });
  for (const name of ['', 'a-b', 'a/b', 'A', 'a'.repeat(17)]) {
    t.throws(() => plan(SMALL, name), { code: 'topology' }, name);
  }
  for (const cidr of ['10.0.0.0/17', 'fd00::/64', 'ten']) {
    t.throws(
      () => plan({ clusters: [{ ...small, podCidrs: [cidr] }] }),
      { code: 'topology' },
      cidr,
    );
  }
  t.end();
});

test('kubernetes objects of a lab', (t) => {
  const topology = parseTopology({
    ...SMALL,
    pods: [{ name: 'p', node: 'a1', namespace: 'shop', ports: [{ port: 80 }] }],
  });
  const plan = planLab(topology, { name: 'x', cgroupRoot: '/cg' });
  const files = clusterObjects(plan.clusters[0]!, plan.pods).map(manifestFile);
  t.same(files, ['node_a1.yaml', 'namespace_default.yaml', 'namespace_shop.yaml']);
  const pod = podObject(plan.pods[0]!, {
    ips: plan.nodes[0]!.addresses,
    node: plan.nodes[0]!,
    ready: false,
  });
  t.match(pod, {
    metadata: { name: 'p', namespace: 'shop' },
    spec: { nodeName: 'a1', containers: [{ ports: [{ containerPort: 80, protocol: 'TCP' }] }] },
    status: { hostIP: '172.31.0.1', conditions: [{ type: 'Ready', status: 'False' }] },
  });
  t.throws(() => parsePod({ name: 'P', node: 'a1' }), { code: 'topology' });
  t.end();
});
