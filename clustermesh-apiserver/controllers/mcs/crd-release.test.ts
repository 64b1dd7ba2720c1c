import { test } from 'tap';
import { isNewerDefinition } from './crd-release.ts';
import { readDefinitions } from './install-crds.ts';
import { servedApi } from './mcs-schema.ts';

const definition = (release: string | undefined, revision = '0', versions = ['v1alpha1']) => ({
  metadata: {
    labels:
      release === undefined
        ? {}
        : {
            'multicluster.x-k8s.io/release-version': release,
            'multicluster.x-k8s.io/crd-schema-revision': revision,
          },
  },
  spec: { versions: versions.map((name) => ({ name })) },
});

const CASES: readonly { name: string; theirs: object; newer: boolean }[] = [
  { name: 'the same', theirs: definition('v0.5.2'), newer: false },
  { name: 'an older release', theirs: definition('v0.4.1', '7'), newer: true },
  { name: 'a newer release', theirs: definition('v0.10.0'), newer: false },
  { name: 'an older revision', theirs: definition('v0.5.2', '-1'), newer: true },
  { name: 'a newer revision', theirs: definition('v0.5.2', '1'), newer: false },
  { name: 'a release that cannot be read', theirs: definition('main'), newer: false },
  { name: 'no label, and a version less', theirs: definition(undefined), newer: true },
  {
    name: 'no label, and all versions',
    theirs: definition(undefined, '0', ['v1alpha1', 'v1beta1']),
    newer: false,
  },
];

for (const { name, theirs, newer } of CASES) {
  test(`isNewerDefinition(): against ${name}`, async (t) => {
    const ours = definition('v0.5.2', '0', ['v1alpha1', 'v1beta1']);
    t.equal(isNewerDefinition(ours, { ...theirs }), newer);
  });
}

test('our definitions serve both versions with all fields', async (t) => {
  const [serviceExports, serviceImports] = await readDefinitions();
  const served = servedApi({ serviceExports, serviceImports });
  t.equal(served?.version, 'v1beta1');
  t.ok(served?.importSpecFields.has('trafficDistribution'));
  t.ok(served?.importStatusFields.has('endpointSliceObjects'));
});

test('servedApi() takes the older version where the newer is not served by both', async (t) => {
  const only = (...versions: string[]) => ({
    spec: { versions: versions.map((name) => ({ name, served: true })) },
  });
  const served = (exports: object, imports: object) =>
    servedApi({ serviceExports: exports, serviceImports: imports })?.version;
  t.equal(served(only('v1alpha1', 'v1beta1'), only('v1alpha1')), 'v1alpha1');
  t.equal(served(only('v1alpha1', 'v1beta1'), only('v1beta1')), 'v1beta1');
  t.equal(served(only('v2'), only('v2')), undefined);
  t.equal(servedApi({ serviceExports: {}, serviceImports: {} }), undefined);
});
