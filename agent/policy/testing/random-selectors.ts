/** Random labels, and selectors that are about them. */
import fc from 'fast-check';

/** Label of a cluster. */
export const CLUSTER = 'io.cilium.k8s.policy.cluster';
/** Label of a namespace. */
export const NAMESPACE = 'io.kubernetes.pod.namespace';

/** A list of at most two, mostly of one. */
export const few = <T>(arbitrary: fc.Arbitrary<T>, minLength = 1) =>
  fc.array(arbitrary, { minLength, maxLength: 2 });
/** A value, or undefined: the greater the weight, the more often a value. */
export const sometimes = <T>(
  weight: number,
  arbitrary: fc.Arbitrary<T>,
): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight, arbitrary }, { weight: 1, arbitrary: fc.constant(undefined) });
/** Objects without the fields that are undefined, as YAML has them. */
export const objectOf = (fields: Readonly<Record<string, fc.Arbitrary<unknown>>>) =>
  fc
    .record({ ...fields })
    .map((object): Readonly<Record<string, unknown>> => JSON.parse(JSON.stringify(object)));

/** Labels of a pod. */
export const podLabels = objectOf({
  app: fc.constantFrom('a', 'b', 'c'),
  tier: sometimes(1, fc.constantFrom('x', 'y', '')),
});
/** What a selector asks for: as labels, or as an expression. */
const matchLabels = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom({ app: 'a' }, { app: 'b' }, { app: 'a', tier: 'x' }) },
  { weight: 3, arbitrary: fc.constantFrom({ tier: 'x' }, { tier: '' }, { app: 'nobody' }) },
  { weight: 2, arbitrary: fc.constantFrom({ 'k8s:app': 'a' }, { 'any:tier': 'y' }) },
);
const expression = fc.oneof(
  fc.record({
    key: fc.constantFrom('app', 'tier', 'k8s:tier'),
    operator: fc.constantFrom('In', 'NotIn'),
    values: few(fc.constantFrom('a', 'b', 'x', '')),
  }),
  fc.record({
    key: fc.constantFrom('tier', 'stage', 'k8s:app'),
    operator: fc.constantFrom('Exists', 'DoesNotExist'),
  }),
);
/** Pods by their own labels. */
export const podSelector = objectOf({
  matchLabels: sometimes(2, matchLabels),
  matchExpressions: sometimes(1, few(expression)),
});
const place = fc.oneof(
  fc.constantFrom({ [NAMESPACE]: 'demo' }, { [`k8s:${NAMESPACE}`]: 'other' }),
  fc.constantFrom({ [CLUSTER]: 'beta' }, { [CLUSTER]: 'alpha' }),
  fc.constant({ 'io.cilium.k8s.namespace.labels.team': 'blue' }),
  fc.constant({ [CLUSTER]: 'beta', [NAMESPACE]: 'other' }),
  fc.constant({ 'io.cilium.k8s.policy.serviceaccount': 'runner' }),
);
const placeExpression = fc.oneof(
  fc.record({
    key: fc.constantFrom(CLUSTER, NAMESPACE, `k8s:${NAMESPACE}`),
    operator: fc.constant('Exists'),
  }),
  fc.record({
    key: fc.constantFrom(CLUSTER, `k8s:${CLUSTER}`),
    operator: fc.constantFrom('In', 'NotIn'),
    values: fc.constantFrom(['alpha'], ['beta'], ['alpha', 'beta']),
  }),
  fc.record({
    key: fc.constant(NAMESPACE),
    operator: fc.constantFrom('In', 'NotIn'),
    values: fc.constantFrom(['demo'], ['demo', 'other'], ['none']),
  }),
);
/** Endpoints by all labels of their identities. */
export const endpointSelector = fc.oneof(
  { weight: 4, arbitrary: podSelector },
  {
    weight: 3,
    arbitrary: fc.tuple(podSelector, place).map(([selector, labels]) => ({
      ...selector,
      matchLabels: { ...(selector as { matchLabels?: object }).matchLabels, ...labels },
    })),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(sometimes(1, matchLabels), few(placeExpression))
      .map(([labels, matchExpressions]) =>
        labels === undefined ? { matchExpressions } : { matchLabels: labels, matchExpressions },
      ),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      { matchLabels: { 'reserved:health': '' } },
      { matchLabels: { 'reserved:host': '' } },
    ),
  },
);

/** Selectors in a NetworkPolicy have no sources. */
export const plain = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T> =>
  arbitrary.map((value) => JSON.parse(JSON.stringify(value).replaceAll(/"(k8s|any):/g, '"')) as T);
