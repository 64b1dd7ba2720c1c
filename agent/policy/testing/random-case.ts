/** Random worlds and policies in the format of the corpus, biased towards what overlaps, denies and depends on names. */
import fc from 'fast-check';
import type { CaseManifest } from './corpus.ts';
import { policies } from './random-policies.ts';
import { namedPorts, port } from './random-rules.ts';
import { podLabels } from './random-selectors.ts';

/** A question about one flow, of which both ends are parties of the random world. */
export interface RandomFlow {
  readonly from: string;
  readonly to: string;
  readonly flow: string;
}

/** A case without its table, and flows to ask about. */
export interface RandomCase {
  readonly manifest: CaseManifest;
  readonly flows: readonly RandomFlow[];
}

const PODS = {
  a1: { cluster: 'alpha', namespace: 'demo' },
  a2: { cluster: 'alpha', namespace: 'demo' },
  a3: { cluster: 'alpha', namespace: 'other' },
  a4: { cluster: 'alpha', namespace: 'other', serviceAccount: 'runner' },
  b1: { cluster: 'beta', namespace: 'demo' },
  b2: { cluster: 'beta', namespace: 'other' },
} as const;
/** Addresses at the edges of the prefixes that rules name. */
const OUTSIDE = {
  o1: '203.0.113.0',
  o2: '203.0.113.9',
  o3: '203.0.113.128',
  o4: '203.0.114.1',
  o5: '198.51.100.7',
  o6: '2001:db8::1',
  o7: '2001:db8:1::1',
  o8: '2001:dead::1',
} as const;
const SUBJECTS = ['a1', 'a2', 'a3', 'a4', 'alpha-1'] as const;
const RESERVED = ['health', 'kube-apiserver', 'init', 'ingress', 'unmanaged'] as const;
const PEERS = [
  ...Object.keys(PODS),
  ...['a1', 'a2', 'a3', 'b1', 'alpha-2', 'beta-1', 'reserved:host'],
  ...Object.keys(OUTSIDE),
  ...RESERVED.map((name) => `reserved:${name}`),
];
/** Ports on which rules turn, and those beside. */
const flowText = fc.oneof(
  {
    weight: 8,
    arbitrary: fc
      .tuple(fc.constantFrom('tcp', 'tcp', 'udp', 'sctp'), port, fc.constantFrom(0, 0, 1, -1))
      .map(([name, port, beside]) => `${name}/${Math.min(65_535, Math.max(1, port + beside))}`),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom('icmp/8', 'icmp/0', 'icmp/13', 'icmpv6/128', 'icmpv6/3'),
  },
);

/** Cases with `count` flows each, of which every one has an end that policies of cluster alpha are about. */
export function randomCases(count: number): fc.Arbitrary<RandomCase> {
  const flow = fc
    .tuple(fc.constantFrom(...SUBJECTS), fc.constantFrom(...PEERS), fc.boolean(), flowText)
    .map(
      ([subject, peer, isEgress, text]): RandomFlow =>
        isEgress
          ? { from: subject, to: peer, flow: text }
          : { from: peer, to: subject, flow: text },
    )
    .filter(({ from, to }) => from !== to && !(isNode(from) && isNode(to)));
  return fc
    .record({
      labels: fc.record(Object.fromEntries(Object.keys(PODS).map((name) => [name, podLabels]))),
      ports: fc.record(Object.fromEntries(Object.keys(PODS).map((name) => [name, namedPorts]))),
      policies,
      defaultLocalCluster: fc.boolean(),
      flows: fc.array(flow, { minLength: count, maxLength: count }),
    })
    .map(({ labels, ports, flows, ...rest }) => ({
      manifest: {
        name: 'random',
        page: 'kubernetes.io/docs/concepts/services-networking/network-policies/',
        endpoints: Object.fromEntries(
          Object.entries(PODS).map(([name, pod]) => [
            name,
            // Named ports belong to identities, so no two pods share one here.
            { ...pod, labels: { ...labels[name], pod: name }, ports: ports[name] ?? {} },
          ]),
        ),
        outside: OUTSIDE,
        services: [
          { name: 'web', namespace: 'demo', backends: ['a2'] },
          { name: 'legacy', namespace: 'demo', backends: ['o2', 'o6'] },
        ],
        ...rest,
      },
      flows,
    }));
}

function isNode(name: string): boolean {
  return /^(alpha|beta)-\d$|^reserved:/.test(name);
}
