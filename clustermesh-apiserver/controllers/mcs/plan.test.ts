import { test } from 'tap';
import { parseClusterName } from '../../../mesh/wire/ids.ts';
import type { ServiceExport } from '../../../mesh/wire/service-export.ts';
import { readExport, readImport } from './mcs-objects.ts';
import { planService, type ServiceFacts } from './plan.ts';
import { exportOf } from './testing/exports.ts';
import { objectOf, serviceOf } from './testing/kubernetes-objects.ts';

const alpha = parseClusterName('alpha');
const beta = parseClusterName('beta');
const ownExport = readExport(objectOf('db'));
const remote = (...exports: ServiceExport[]) =>
  new Map(exports.map((one) => [one.cluster, one] as const));
const importOf = (clusters: readonly string[], annotations: object = {}) =>
  readImport(
    objectOf('db', {
      metadata: { annotations },
      spec: { type: 'ClusterSetIP', ports: [] },
      status: { clusters: clusters.map((cluster) => ({ cluster })) },
    }),
  );

/** Nothing but a global namespace in alpha, whose peer beta was read. */
const NOTHING: ServiceFacts = {
  cluster: alpha,
  isNamespaceGlobal: true,
  exported: undefined,
  service: undefined,
  remote: new Map(),
  unread: [],
  current: undefined,
  localFamilies: ['IPv4'],
};

const CASES: readonly {
  readonly name: string;
  readonly facts: Partial<ServiceFacts>;
  readonly verdict?: string;
  readonly does: string;
}[] = [
  { name: 'nothing', facts: {}, does: 'none' },
  {
    name: 'an import by hand that nobody exports stays',
    facts: { current: importOf([]) },
    does: 'none',
  },
  {
    name: 'an import that nobody exports any more goes',
    facts: { current: importOf(['beta']) },
    does: 'delete',
  },
  {
    name: 'one with a derived Service goes even if it never had a status',
    facts: { current: importOf([], { 'multicluster.kubernetes.io/derived-service': 'derived-x' }) },
    does: 'delete',
  },
  {
    name: 'the own export alone',
    facts: { exported: ownExport, service: serviceOf('db') },
    verdict: 'exported',
    does: 'apply alpha usable',
  },
  {
    name: 'a peer alone',
    facts: { remote: remote(exportOf('beta')) },
    does: 'apply beta usable',
  },
  {
    name: 'both',
    facts: { exported: ownExport, service: serviceOf('db'), remote: remote(exportOf('beta')) },
    verdict: 'exported',
    does: 'apply alpha,beta usable',
  },
  {
    name: 'an export without a Service does not hinder the peers',
    facts: { exported: ownExport, remote: remote(exportOf('beta')), current: importOf(['beta']) },
    verdict: 'no-service',
    does: 'apply beta usable',
  },
  {
    name: 'ExternalName is never exported',
    facts: { exported: ownExport, service: serviceOf('db', { type: 'ExternalName' }) },
    verdict: 'invalid-type',
    does: 'none',
  },
  {
    name: 'a Service that cannot be read',
    facts: { exported: ownExport, service: 'field spec.ports: expected a list' },
    verdict: 'unusable',
    does: 'none',
  },
  {
    name: 'a namespace that is not global: no export, and what peers export is not usable',
    facts: {
      isNamespaceGlobal: false,
      exported: ownExport,
      service: serviceOf('db'),
      remote: remote(exportOf('beta')),
    },
    verdict: 'namespace-not-global',
    does: 'apply beta not usable',
  },
  {
    name: 'no family of ours',
    facts: { remote: remote(exportOf('beta', { ipFamilies: ['IPv6'] })) },
    does: 'apply beta not usable',
  },
  {
    name: 'promise 6: a cluster of the import that was not read keeps it as it is',
    facts: { current: importOf(['beta']), unread: [beta] },
    does: 'hold beta',
  },
  {
    name: 'promise 6: and what others say does not count until then',
    facts: {
      exported: ownExport,
      service: serviceOf('db'),
      current: importOf(['alpha', 'beta']),
      unread: [beta],
    },
    verdict: 'waiting',
    does: 'hold beta',
  },
  {
    name: 'promise 6: nor is anybody taken for removed before the peers are known',
    facts: { current: importOf(['beta']), unread: undefined },
    does: 'hold beta',
  },
  {
    name: 'a cluster that is no peer any more is not waited for',
    facts: { current: importOf(['gone']), unread: [beta] },
    does: 'delete',
  },
  {
    name: 'an unread peer that the import does not name hinders nobody, but conflicts are not known',
    facts: { exported: ownExport, service: serviceOf('db'), unread: [beta] },
    verdict: 'waiting',
    does: 'apply alpha usable',
  },
  {
    name: 'a part of an unread peer is used when it holds this export',
    facts: { current: importOf(['beta']), unread: [beta], remote: remote(exportOf('beta')) },
    does: 'apply beta usable',
  },
];

for (const { name, facts, verdict, does } of CASES) {
  test(`planService(): ${name}`, async (t) => {
    const plan = planService({ ...NOTHING, ...facts });
    t.equal(plan.verdict?.kind, verdict);
    t.equal(textOf(plan), does);
  });
}

function textOf({ import: made }: ReturnType<typeof planService>): string {
  switch (made.kind) {
    case 'apply':
      return `apply ${made.merged.clusters.join(',')} ${made.isUsable ? '' : 'not '}usable`;
    case 'hold':
      return `hold ${made.peers.join(',')}`;
    default:
      return made.kind;
  }
}
