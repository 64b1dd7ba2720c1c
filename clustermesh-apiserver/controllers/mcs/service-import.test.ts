import { test } from 'tap';
import { recordOf, textsOf } from '../kubernetes-object.ts';
import { desiredDerivedService, isDerivedService } from './derived-service.ts';
import { MCS_VERSIONS, oldestApi, type ServedApi } from './mcs-schema.ts';
import { type MergedExports, mergeExports } from './merge-exports.ts';
import {
  clusterSetIps,
  desiredImport,
  desiredImportStatus,
  syncsSlices,
} from './service-import.ts';
import { exportOf } from './testing/exports.ts';
import { objectOf, serviceOf } from './testing/kubernetes-objects.ts';

const SERVED: ServedApi = {
  ...oldestApi('v1beta1'),
  importSpecFields: new Set([
    'ports',
    'ips',
    'type',
    'sessionAffinity',
    'sessionAffinityConfig',
    'ipFamilies',
    'internalTrafficPolicy',
    'trafficDistribution',
  ]),
  importStatusFields: new Set(['clusters', 'conditions', 'endpointSliceObjects']),
};

function mergedOf(...exports: Parameters<typeof mergeExports>[0]): MergedExports {
  const merged = mergeExports(exports);
  if (merged === undefined) throw new Error('nothing is exported');
  return merged;
}

const FULL = mergedOf(
  exportOf('alpha', {
    sessionAffinity: 'ClientIP',
    sessionAffinityConfig: { clientIp: { timeoutSeconds: 10 } },
    ipFamilies: ['IPv6', 'IPv4'],
    internalTrafficPolicy: 'Local',
    trafficDistribution: 'PreferClose',
    labels: { tier: 'gold' },
    annotations: { 'example.com/note': 'x' },
    ports: [{ name: 'pg', protocol: 'TCP', appProtocol: 'postgresql', port: 5432 }],
  }),
);
const DERIVED = serviceOf('derived-p1lq1mrn4r', {
  clusterIP: '10.96.0.7',
  clusterIPs: ['10.96.0.7', 'fd00::7'],
});
const INPUT = { namespace: 'data', name: 'db', merged: FULL, derived: DERIVED, served: SERVED };

test('desiredImport() has all that was exported, and the addresses in the order of the families', async (t) => {
  t.strictSame(desiredImport({ ...INPUT, families: ['IPv6', 'IPv4'] }), {
    metadata: {
      name: 'db',
      namespace: 'data',
      labels: { tier: 'gold' },
      annotations: {
        'example.com/note': 'x',
        'clustermesh.cilium.io/supported-ip-families': 'IPv6,IPv4',
        'multicluster.kubernetes.io/derived-service': 'derived-p1lq1mrn4r',
      },
    },
    spec: {
      type: 'ClusterSetIP',
      ports: [{ name: 'pg', protocol: 'TCP', port: 5432, appProtocol: 'postgresql' }],
      sessionAffinity: 'ClientIP',
      ips: ['fd00::7', '10.96.0.7'],
      ipFamilies: ['IPv6', 'IPv4'],
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 10 } },
      internalTrafficPolicy: 'Local',
      trafficDistribution: 'PreferClose',
    },
  });
});

test('desiredImport() has an address for each family that is usable here, and no more', async (t) => {
  const { spec } = desiredImport({ ...INPUT, families: ['IPv4'] });
  t.strictSame(recordOf(spec)?.ips, ['10.96.0.7']);
  t.strictSame(recordOf(spec)?.ipFamilies, ['IPv4']);
});

test('desiredImport() without a family of ours names those of the exports', async (t) => {
  const { spec } = desiredImport({ ...INPUT, families: [], derived: undefined });
  t.equal(recordOf(spec)?.ips, undefined);
  t.strictSame(recordOf(spec)?.ipFamilies, ['IPv6', 'IPv4']);
});

test('desiredImport() leaves out what the served definitions do not have', async (t) => {
  for (const version of MCS_VERSIONS) {
    const { spec } = desiredImport({ ...INPUT, families: ['IPv4'], served: oldestApi(version) });
    t.strictSame(Object.keys(recordOf(spec) ?? {}).sort(), [
      'ips',
      'ports',
      'sessionAffinity',
      'sessionAffinityConfig',
      'type',
    ]);
  }
});

test('an exported annotation cannot pass for one of ours', async (t) => {
  const merged = mergedOf(
    exportOf('alpha', {
      annotations: {
        'multicluster.kubernetes.io/derived-service': 'other',
        'clustermesh.cilium.io/supported-ip-families': 'IPv9',
        'service.cilium.io/global': 'false',
      },
      labels: { 'multicluster.kubernetes.io/service-name': 'other' },
    }),
  );
  const made = desiredImport({ ...INPUT, merged, families: ['IPv4'] }).metadata.annotations ?? {};
  t.equal(made['multicluster.kubernetes.io/derived-service'], 'derived-p1lq1mrn4r');
  t.equal(made['clustermesh.cilium.io/supported-ip-families'], 'IPv4');
  const { metadata } = desiredDerivedService({
    merged,
    families: ['IPv4'],
    owner: { apiVersion: SERVED.apiVersion, object: objectOf('db') },
    syncSlices: false,
  });
  t.equal(metadata.annotations?.['service.cilium.io/global'], 'true');
  t.equal(metadata.labels?.['multicluster.kubernetes.io/service-name'], 'db');
});

test('clusterSetIps() of a headless service are none', async (t) => {
  const merged = mergedOf(exportOf('alpha', { type: 'Headless' }));
  t.strictSame(clusterSetIps({ merged, families: ['IPv4'], derived: DERIVED }), []);
  t.strictSame(clusterSetIps({ merged: FULL, families: ['IPv4'], derived: undefined }), []);
});

test('desiredDerivedService() has the ports, no selector, and belongs to the import', async (t) => {
  const made = desiredDerivedService({
    merged: FULL,
    families: ['IPv6', 'IPv4'],
    owner: { apiVersion: SERVED.apiVersion, object: objectOf('db') },
    syncSlices: true,
  });
  t.strictSame(made, {
    metadata: {
      name: 'derived-p1lq1mrn4r',
      namespace: 'data',
      labels: { tier: 'gold', 'multicluster.kubernetes.io/service-name': 'db' },
      annotations: {
        'service.cilium.io/global-sync-endpoint-slices': 'true',
        'example.com/note': 'x',
        'clustermesh.cilium.io/supported-ip-families': 'IPv6,IPv4',
        'service.cilium.io/global': 'true',
      },
      ownerReferences: [
        {
          apiVersion: 'multicluster.x-k8s.io/v1beta1',
          kind: 'ServiceImport',
          name: 'db',
          uid: 'uid-of-db',
          controller: true,
          blockOwnerDeletion: true,
        },
      ],
    },
    spec: {
      type: 'ClusterIP',
      ipFamilyPolicy: 'PreferDualStack',
      ports: [{ name: 'pg', protocol: 'TCP', port: 5432, appProtocol: 'postgresql' }],
      internalTrafficPolicy: 'Local',
      trafficDistribution: 'PreferClose',
      sessionAffinity: 'ClientIP',
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 10 } },
    },
  });
});

test('desiredDerivedService() of a headless service has no address and no affinity', async (t) => {
  const { metadata, spec } = desiredDerivedService({
    merged: mergedOf(exportOf('alpha', { type: 'Headless', sessionAffinity: 'ClientIP' })),
    families: ['IPv4'],
    owner: { apiVersion: SERVED.apiVersion, object: objectOf('db') },
    syncSlices: true,
    plain: true,
  });
  t.equal(recordOf(spec)?.clusterIP, 'None');
  t.equal(recordOf(spec)?.sessionAffinity, undefined);
  t.notOk('service.cilium.io/global-sync-endpoint-slices' in textsOf(metadata.annotations));
});

test('syncsSlices() asks the exports first', async (t) => {
  const said = (value: string | undefined, type: 'Headless' | 'ClusterSetIP') =>
    mergedOf(
      exportOf('alpha', {
        type,
        annotations:
          value === undefined
            ? undefined
            : { 'service.cilium.io/global-sync-endpoint-slices': value },
      }),
    );
  t.equal(syncsSlices(said(undefined, 'Headless'), false), true);
  t.equal(syncsSlices(said(undefined, 'ClusterSetIP'), false), false);
  t.equal(syncsSlices(said(undefined, 'ClusterSetIP'), true), true);
  t.equal(syncsSlices(said('false', 'Headless'), true), false);
  t.equal(syncsSlices(said('True', 'ClusterSetIP'), false), true);
});

test('desiredImportStatus() has what is served', async (t) => {
  const options = { conditions: [], sliceObjects: true };
  t.strictSame(desiredImportStatus(FULL, { ...options, served: SERVED }), {
    clusters: [{ cluster: 'alpha' }],
    conditions: [],
    endpointSliceObjects: 'Present',
  });
  t.strictSame(
    Object.keys(desiredImportStatus(FULL, { ...options, served: oldestApi('v1alpha1') })),
    ['clusters', 'conditions'],
  );
});

test('isDerivedService() knows ours by their import', async (t) => {
  t.ok(
    isDerivedService(
      objectOf('x', { metadata: { labels: { 'multicluster.kubernetes.io/service-name': 'db' } } }),
      'db',
    ),
  );
  t.ok(
    isDerivedService(
      objectOf('x', {
        metadata: { ownerReferences: [{ kind: 'ServiceImport', name: 'db', uid: 'u' }] },
      }),
      'db',
    ),
  );
  t.notOk(isDerivedService(objectOf('x'), 'db'));
});
