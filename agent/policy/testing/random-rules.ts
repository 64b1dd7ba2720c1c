/** Random rules: peers, prefixes and ports that overlap. */
import fc from 'fast-check';
import { CLUSTER, endpointSelector, few, podSelector, sometimes } from './random-selectors.ts';

const PREFIXES = [
  ...['0.0.0.0/0', '203.0.112.0/22', '203.0.113.0/24', '203.0.113.0/25', '203.0.113.9/32'],
  ...['198.51.100.0/24', '128.0.0.0/1', '10.0.0.0/8', '::/0', '2001:db8::/32', '2001:db8:1::/48'],
] as const;
const EXCEPTIONS: Readonly<Record<string, readonly string[]>> = {
  '0.0.0.0/0': ['203.0.113.0/24', '203.0.113.9/32', '128.0.0.0/1'],
  '203.0.112.0/22': ['203.0.113.0/25', '203.0.113.128/26'],
  '203.0.113.0/24': ['203.0.113.0/25', '203.0.113.9/32', '203.0.113.0/24'],
  '128.0.0.0/1': ['203.0.112.0/22'],
  '::/0': ['2001:db8:1::/48'],
  '2001:db8::/32': ['2001:db8:1::/48', '2001:db8::1/128'],
};
const ENTITIES = [
  ...['all', 'world', 'world-ipv4', 'world-ipv6', 'cluster', 'cluster-mesh', 'host', 'remote-node'],
  ...['health', 'none', 'kube-apiserver', 'init', 'ingress', 'unmanaged'],
] as const;
/** Ports that rules begin and end at; flows go to them and to those beside. */
const PORTS = [1, 79, 80, 81, 127, 128, 443, 8080, 8191, 8192, 65_534, 65_535] as const;
const NAMES = ['http', 'dns', 'metrics'] as const;
/** Named ports of a pod. */
export const namedPorts = fc.dictionary(
  fc.constantFrom(...NAMES),
  fc.constantFrom('TCP/80', 'TCP/81', 'UDP/80', 'TCP/8080', 'SCTP/80', 'UDP/443'),
  { maxKeys: 2 },
);

const protocol = fc.constantFrom('TCP', 'TCP', 'UDP', 'SCTP');
/** A port that a rule names, or a flow goes to: mostly one of few, so that rules meet. */
export const port = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(80, 81, 8080) },
  { weight: 1, arbitrary: fc.constantFrom(...PORTS) },
);
/** A number, a name, or a range whose ends are in order. */
const portFields = fc.oneof(
  { weight: 5, arbitrary: port.map((number) => ({ port: number })) },
  {
    weight: 3,
    arbitrary: fc
      .tuple(port, port)
      .map(([one, other]) => ({ port: Math.min(one, other), endPort: Math.max(one, other) })),
  },
  { weight: 3, arbitrary: fc.constantFrom(...NAMES).map((port) => ({ port })) },
);
const kubernetesPort = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(portFields, sometimes(2, protocol)).map(merged) },
  { weight: 1, arbitrary: protocol.map((name) => ({ protocol: name })) },
);
const ciliumPort = fc
  .tuple(
    fc.oneof(
      { weight: 6, arbitrary: portFields },
      { weight: 1, arbitrary: fc.constant({ port: 0 }) },
    ),
    sometimes(3, fc.oneof(protocol, fc.constant('ANY'))),
  )
  .map(([fields, name]) => merged([{ ...fields, port: String(fields.port) }, name]));
const icmps = fc.constantFrom(
  [{ fields: [{ type: 8 }, { type: 'EchoRequest', family: 'IPv6' }] }],
  [
    {
      fields: [
        { type: 'EchoReply', family: 'IPv4' },
        { type: 8, family: 'IPv4' },
      ],
    },
  ],
  [{ fields: [{ type: 3, family: 'IPv6' }] }, { fields: [{ type: 13 }] }],
);

function merged([fields, name]: [object, string | undefined]): object {
  return name === undefined ? fields : { ...fields, protocol: name };
}

const cidrSet = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .constantFrom(...PREFIXES)
      .chain((cidr) =>
        sometimes(1, few(fc.constantFrom(...(EXCEPTIONS[cidr] ?? [cidr])))).map((except) =>
          except === undefined ? { cidr } : { cidr, except },
        ),
      ),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom('north', 'south', 'gone').map((name) => ({ cidrGroupRef: name })),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      { cidrGroupSelector: { matchLabels: { role: 'branch' } } },
      { cidrGroupSelector: { matchExpressions: [{ key: 'role', operator: 'Exists' }] } },
    ),
  },
);

const kubernetesPeer = fc.oneof(
  { weight: 3, arbitrary: podSelector.map((selector) => ({ podSelector: selector })) },
  {
    weight: 3,
    arbitrary: fc
      .tuple(
        fc.constantFrom(
          {},
          { matchLabels: { team: 'blue' } },
          { matchLabels: { 'kubernetes.io/metadata.name': 'demo' } },
          { matchExpressions: [{ key: 'team', operator: 'NotIn', values: ['blue'] }] },
        ),
        sometimes(1, podSelector),
      )
      .map(([namespaceSelector, pods]) =>
        pods === undefined ? { namespaceSelector } : { namespaceSelector, podSelector: pods },
      ),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom(...PREFIXES).chain((cidr) =>
      sometimes(1, few(fc.constantFrom(...(EXCEPTIONS[cidr] ?? [cidr])))).map((except) => {
        // In Kubernetes an exception is smaller than what it is taken from.
        const smaller = (except ?? []).filter((prefix) => prefix !== cidr);
        return { ipBlock: smaller.length === 0 ? { cidr } : { cidr, except: smaller } };
      }),
    ),
  },
);

/** A rule of a NetworkPolicy. */
export function kubernetesRule(side: 'from' | 'to'): fc.Arbitrary<object> {
  return fc
    .tuple(sometimes(3, few(kubernetesPeer, 0)), sometimes(2, few(kubernetesPort, 0)))
    .map(([peers, ports]) => ({
      ...(peers === undefined ? {} : { [side]: peers }),
      ...(ports === undefined ? {} : { ports }),
    }));
}

/** A rule of a Cilium policy. */
export function ciliumRule(side: 'from' | 'to', isDeny: boolean): fc.Arbitrary<object> {
  const peers = fc.oneof(
    { weight: 4, arbitrary: fc.constant({}) },
    {
      weight: 6,
      arbitrary: few(endpointSelector, 0).map((list) => ({ [`${side}Endpoints`]: list })),
    },
    {
      weight: 3,
      arbitrary: few(fc.constantFrom('all', 'all', 'all', 'cluster', ...ENTITIES)).map((list) => ({
        [`${side}Entities`]: list,
      })),
    },
    {
      weight: 2,
      arbitrary: few(fc.constantFrom(...PREFIXES)).map((list) => ({ [`${side}CIDR`]: list })),
    },
    { weight: 3, arbitrary: few(cidrSet).map((list) => ({ [`${side}CIDRSet`]: list })) },
    {
      weight: 1,
      arbitrary: fc
        .constantFrom(
          {},
          { matchLabels: { zone: 'a' } },
          { matchLabels: { tier: 'edge', [CLUSTER]: 'alpha' } },
        )
        .map((selector) => ({ [`${side}Nodes`]: [selector] })),
    },
    {
      weight: 1,
      arbitrary: podSelector.map((selector) => ({ [`${side}Requires`]: [selector] })),
    },
    ...(side === 'to' && !isDeny
      ? [
          {
            weight: 1,
            arbitrary: fc.constantFrom('web', 'legacy', 'gone').map((serviceName) => ({
              toServices: [{ k8sService: { serviceName, namespace: 'demo' } }],
            })),
          },
        ]
      : []),
  );
  const ports = fc.oneof(
    { weight: 3, arbitrary: fc.constant({}) },
    {
      weight: 5,
      arbitrary: few(few(ciliumPort).map((list) => ({ ports: list }))).map((toPorts) => ({
        toPorts,
      })),
    },
    { weight: 1, arbitrary: icmps.map((list) => ({ icmps: list })) },
  );
  return fc.tuple(peers, ports).map(([who, what]) => ({ ...who, ...what }));
}
