import { test } from 'tap';
import type { ServiceExport } from '../../../mesh/wire/service-export.ts';
import { mergeExports } from './merge-exports.ts';
import { exportOf } from './testing/exports.ts';

const port = (name: string, number: number) => ({
  name,
  protocol: 'TCP',
  appProtocol: undefined,
  port: number,
});

/** What beta exports otherwise than alpha, which is older; the values used are alpha's. */
const CASES: readonly {
  readonly name: string;
  readonly alpha?: Partial<ServiceExport>;
  readonly beta: Partial<ServiceExport>;
  readonly reason: string;
  readonly message: RegExp;
}[] = [
  {
    name: 'ports',
    beta: { ports: [port('pg', 5433)] },
    reason: 'PortConflict',
    message: /ports: 1 of 2 clusters disagree \(beta\), .* from cluster alpha/,
  },
  {
    name: 'families without any in common',
    beta: { ipFamilies: ['IPv6'] },
    reason: 'IPFamilyConflict',
    message: /ipFamilies: 1 of 2 clusters disagree \(beta\).*IPv4 used from cluster alpha/,
  },
  {
    name: 'type',
    beta: { type: 'Headless' },
    reason: 'TypeConflict',
    message: /type: 1 of 2 clusters disagree, ClusterSetIP is used from cluster alpha/,
  },
  {
    name: 'affinity',
    beta: { sessionAffinity: 'ClientIP' },
    reason: 'SessionAffinityConflict',
    message: /sessionAffinity: 1 of 2 clusters disagree, None is used from cluster alpha/,
  },
  {
    name: 'timeout of the affinity',
    alpha: { sessionAffinityConfig: { clientIp: { timeoutSeconds: 10 } } },
    beta: { sessionAffinityConfig: { clientIp: { timeoutSeconds: 20 } } },
    reason: 'SessionAffinityConfigConflict',
    message: /timeoutSeconds: 1 of 2 clusters disagree, 10 is used from cluster alpha/,
  },
  {
    name: 'annotations',
    alpha: { annotations: { a: '1' } },
    beta: { annotations: { a: '2' } },
    reason: 'AnnotationsConflict',
    message: /exported annotations: 1 of 2 clusters disagree, \{"a":"1"\} is used from/,
  },
  {
    name: 'labels',
    beta: { labels: { a: '1' } },
    reason: 'LabelsConflict',
    message: /exported labels: 1 of 2 clusters disagree, \{\} is used from cluster alpha/,
  },
  {
    name: 'internal traffic policy',
    beta: { internalTrafficPolicy: 'Local' },
    reason: 'InternalTrafficPolicyConflict',
    message: /internalTrafficPolicy: 1 of 2 clusters disagree, Cluster is used/,
  },
  {
    name: 'traffic distribution',
    beta: { trafficDistribution: 'PreferClose' },
    reason: 'TrafficDistributionConflict',
    message: /trafficDistribution: 1 of 2 clusters disagree, none is used/,
  },
  {
    name: 'ports count before all others',
    beta: {
      ports: [port('other', 1)],
      ipFamilies: ['IPv6'],
      type: 'Headless',
      labels: { a: '1' },
    },
    reason: 'PortConflict',
    message: /ports: .*ipFamilies: .*type: .*exported labels: /,
  },
];

for (const { name, alpha = {}, beta, reason, message } of CASES) {
  test(`findConflict(): ${name}`, async (t) => {
    const merged = mergeExports([
      exportOf('beta', { ...beta, age: 1 }),
      exportOf('alpha', { ...alpha }),
    ]);
    t.equal(merged?.conflict?.reason, reason);
    t.match(merged?.conflict?.message, message);
  });
}

test('findConflict() knows the default of the internal traffic policy', async (t) => {
  const merged = mergeExports([
    exportOf('alpha', { internalTrafficPolicy: 'Cluster' }),
    exportOf('beta', { internalTrafficPolicy: undefined, age: 1 }),
  ]);
  t.equal(merged?.conflict, undefined, 'clusters of older versions do not say it');
});

test('findConflict() takes a field of the order before one of another cluster', async (t) => {
  const merged = mergeExports([
    exportOf('alpha'),
    exportOf('beta', { age: 1, labels: { a: '1' } }),
    exportOf('gamma', { age: 2, type: 'Headless' }),
  ]);
  t.equal(merged?.conflict?.reason, 'TypeConflict');
  t.match(merged?.conflict?.message, /type: 1 of 3 clusters .*exported labels: 1 of 3 clusters/);
});

test('findConflict() cuts long values', async (t) => {
  const merged = mergeExports([
    exportOf('alpha', { annotations: { long: 'x'.repeat(100_000) } }),
    exportOf('beta', { age: 1 }),
  ]);
  t.ok((merged?.conflict?.message.length ?? 0) < 500);
});

test('one cluster alone has no conflict', async (t) => {
  t.equal(mergeExports([exportOf('alpha', { ports: [port('BAD', 0)] })])?.conflict, undefined);
});
