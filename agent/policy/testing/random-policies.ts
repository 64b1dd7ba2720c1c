/** Random policies of all kinds. */
import fc from 'fast-check';
import { ciliumRule, kubernetesRule } from './random-rules.ts';
import { few, NAMESPACE, objectOf, plain, podSelector, sometimes } from './random-selectors.ts';

/** Whom a policy is about: often everybody, so that policies meet. */
const subject = fc.oneof(
  { weight: 1, arbitrary: fc.constant({}) },
  { weight: 1, arbitrary: podSelector },
);
const networkPolicy = plain(
  fc.record({
    namespace: fc.constantFrom('demo', 'demo', 'other'),
    podSelector: subject,
    policyTypes: sometimes(1, fc.constantFrom(['Ingress'], ['Egress'], ['Ingress', 'Egress'])),
    ingress: sometimes(3, few(kubernetesRule('from'), 0)),
    egress: sometimes(2, few(kubernetesRule('to'), 0)),
  }),
).map(({ namespace, ...spec }) => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { name: 'p', namespace },
  spec,
}));

const ciliumSpec = objectOf({
  enableDefaultDeny: sometimes(
    1,
    fc.constantFrom({ ingress: false }, { egress: false }, { ingress: false, egress: false }),
  ),
  ingress: sometimes(2, few(ciliumRule('from', false))),
  ingressDeny: sometimes(2, few(ciliumRule('from', true))),
  egress: sometimes(2, few(ciliumRule('to', false))),
  egressDeny: sometimes(2, few(ciliumRule('to', true))),
}).map((spec) =>
  // A policy without any rule is refused as a whole.
  Object.keys(spec).some((key) => key !== 'enableDefaultDeny') ? spec : { ...spec, ingress: [{}] },
);

const ciliumPolicy = fc
  .tuple(fc.constantFrom('demo', 'demo', 'other'), few(fc.tuple(subject, ciliumSpec)))
  .map(([namespace, specs]) => ({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: 'p', namespace },
    specs: specs.map(([endpoints, spec]) => ({ endpointSelector: endpoints, ...spec })),
  }));
const clusterwidePolicy = fc
  .tuple(
    fc.oneof(
      { weight: 4, arbitrary: subject.map((selector) => ({ endpointSelector: selector })) },
      {
        weight: 2,
        arbitrary: fc.constant({
          endpointSelector: { matchLabels: { [`k8s:${NAMESPACE}`]: 'other' } },
        }),
      },
      {
        weight: 1,
        arbitrary: fc.constantFrom(
          { nodeSelector: {} },
          { nodeSelector: { matchLabels: { zone: 'a' } } },
        ),
      },
    ),
    ciliumSpec,
  )
  .map(([subject, spec]) => ({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumClusterwideNetworkPolicy',
    metadata: { name: 'p' },
    spec: { ...subject, ...spec },
  }));

const GROUPS = [
  {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumCIDRGroup',
    metadata: { name: 'north', labels: { role: 'branch' } },
    spec: { externalCIDRs: ['203.0.113.0/24', '2001:db8::/32'] },
  },
  {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumCIDRGroup',
    metadata: { name: 'south', labels: { role: 'lab' } },
    spec: { externalCIDRs: ['198.51.100.0/24', '203.0.113.9/32'] },
  },
] as const;

/** One to four policies, and the groups of prefixes that they name. */
export const policies = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: networkPolicy },
      { weight: 4, arbitrary: ciliumPolicy },
      { weight: 3, arbitrary: clusterwidePolicy },
    ),
    { minLength: 1, maxLength: 4 },
  )
  .map((list) => [
    ...list.map((policy, index) => ({
      ...policy,
      metadata: { ...policy.metadata, name: `p${index}` },
    })),
    ...GROUPS,
  ]);
