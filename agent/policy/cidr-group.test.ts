import { test } from 'tap';
import { parseCidrGroup } from './cidr-group.ts';

const group = (manifest: unknown) =>
  parseCidrGroup({
    kind: 'CiliumCIDRGroup',
    namespace: '',
    name: 'office',
    generation: 3,
    manifest,
  });

test('parseCidrGroup() reads networks, each once, and labels', async (t) => {
  const manifest = {
    metadata: { name: 'office', labels: { net: 'x', a: 'b' } },
    spec: { externalCIDRs: ['10.1.2.3/8', '10.0.0.0/8', '192.0.2.1', '2001:db8::/32'] },
  };
  t.same(group(manifest), {
    name: 'office',
    generation: 3,
    labels: [
      { source: 'k8s', key: 'a', value: 'b' },
      { source: 'k8s', key: 'net', value: 'x' },
    ],
    prefixes: ['10.0.0.0/8', '192.0.2.1/32', '2001:db8::/32'],
    problems: [],
  });
});

test('parseCidrGroup() divides the world, and takes a group of nothing', async (t) => {
  t.same(group({ spec: { externalCIDRs: ['0.0.0.0/0', '::/0'] } }).prefixes, [
    '0.0.0.0/1',
    '128.0.0.0/1',
    '::/1',
    '8000::/1',
  ]);
  t.same(group({ spec: {} }).prefixes, []);
  t.same(group({ metadata: { labels: null }, spec: { externalCIDRs: null } }).prefixes, []);
});

const broken: readonly [name: string, manifest: unknown, problem: string][] = [
  ['a manifest that is no object', 7, 'the manifest must be an object'],
  ['no spec', {}, 'spec must be an object'],
  [
    'an unknown field',
    { spec: { externalCIDRs: [], novelty: 1 } },
    'spec.novelty is not supported',
  ],
  [
    'networks that are no list',
    { spec: { externalCIDRs: {} } },
    'spec.externalCIDRs must be a list',
  ],
  [
    'one network that is none',
    { spec: { externalCIDRs: ['10.0.0.0/8', '10.0.0.0/x'] } },
    'spec.externalCIDRs[1] is "10.0.0.0/x": expected an address or a network',
  ],
  [
    'a network that is no text',
    { spec: { externalCIDRs: [{}] } },
    'spec.externalCIDRs[0] is an object',
  ],
  ['too many', { spec: { externalCIDRs: Array(100_001).fill('::1') } }, 'has 100001 items'],
  [
    'a label that is no text',
    { metadata: { labels: { a: 1 } }, spec: {} },
    'metadata.labels.a must be a text',
  ],
  [
    'labels that are a list',
    { metadata: { labels: [] }, spec: {} },
    'metadata.labels must be an object',
  ],
];

for (const [name, manifest, problem] of broken) {
  test(`parseCidrGroup(): a group with ${name} is not used, and says so`, async (t) => {
    const { prefixes, problems } = group(manifest);
    t.equal(prefixes, undefined);
    t.equal(problems.length, 1);
    t.match(problems[0]?.message, problem);
    t.match(problems[0]?.message, 'until it is corrected the group is not used');
  });
}
