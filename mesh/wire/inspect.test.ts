import { readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../runtime/project-path.ts';
import { inspectPair } from './inspect.ts';
import { frameOf, sliceMessage } from './testing/slice-writer.ts';

/** Values of a mesh of Cilium, by their keys. */
const values = new Map<string, string>(
  readFileSync(projectPath('mesh/wire/testdata/cilium-kv.jsonl'), 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
    .map(({ key, value }) => [key, value]),
);

const NODE = 'cilium/state/nodes/v1/alpha/v4-only';
const SERVICE = 'cilium/state/services/v1/alpha/data/headless';
const CACHED_SERVICE = 'cilium/cache/services/v1/beta/demo/web';
const IDENTITY = 'cilium/state/identities/v1/id/65793';
const CACHED_IDENTITY = 'cilium/cache/identities/v1/beta/id/131329';
const ADDRESS = 'cilium/state/ip/v1/default/10.99.0.5';
const NETWORK = 'cilium/state/ip/v1/default/10.244.0.0/16';
const CONFIG = 'cilium/cluster-config/alpha';
const LARGE_CONFIG = 'cilium/cluster-config/omega';
const REFERENCE = [...values.keys()].find((key) => key.includes('/value/')) ?? '';

/** A value of Cilium with a piece of its text replaced. */
function mutated(key: string, [from, to]: readonly [string, string]): string {
  const value = values.get(key) ?? '';
  if (!value.includes(from)) throw new Error(`${key} does not hold ${from}: ${value}`);
  return value.replace(from, to);
}

test('a value that says something else than its key is not valid, and the field is named', async (t) => {
  const cases: readonly (readonly [string, readonly [string, string], string])[] = [
    [NODE, ['"Name":"v4-only"', '"Name":"v5-only"'], 'Name'],
    [NODE, ['"Cluster":"alpha"', '"Cluster":"beta"'], 'Cluster'],
    [NODE, ['"ClusterID":1,', '"ClusterID":0,'], 'ClusterID'],
    [NODE, ['"ClusterID":1,', '"ClusterID":512,'], 'ClusterID'],
    [NODE, ['"192.0.2.11"', '"192.0.2.300"'], 'IPAddresses[0].IP'],
    [NODE, ['"Mask":"////AA=="', '"Mask":"//8A/w=="'], 'IPv4AllocCIDR.Mask'],
    [NODE, ['"EncryptionKey":0', '"EncryptionKey":256'], 'EncryptionKey'],
    [SERVICE, ['"cluster":"alpha"', '"cluster":"gamma"'], 'cluster'],
    [SERVICE, ['"namespace":"data"', '"namespace":"date"'], 'namespace'],
    [SERVICE, ['"name":"headless"', '"name":"header"'], 'name'],
    [SERVICE, ['"clusterID":1', '"clusterID":0'], 'clusterID'],
    [SERVICE, ['"Protocol":"SCTP"', '"Protocol":"sctp"'], 'backends["10.1.0.21"]["sig"].Protocol'],
    [SERVICE, ['"10.1.0.21":{"pg"', '"10.1.0.x":{"pg"'], 'backends["10.1.0.x"]'],
    [CACHED_SERVICE, ['"cluster":"beta"', '"cluster":"alpha"'], 'cluster'],
    [ADDRESS, ['"IP":"10.99.0.5"', '"IP":"10.99.0.6"'], 'IP'],
    [ADDRESS, ['"Mask":null', '"Mask":"/////w=="'], 'IP'],
    [ADDRESS, ['"ID":16744705', '"ID":16777216'], 'ID'],
    // An identity of a cluster outside a mesh.
    [ADDRESS, ['"ID":16744705', '"ID":4097'], 'ID'],
    [NETWORK, ['"IP":"10.244.0.0"', '"IP":"10.244.1.2"'], 'IP'],
    [NETWORK, ['"Mask":"//8AAA=="', '"Mask":"////AA=="'], 'IP'],
    [NETWORK, ['"Mask":"//8AAA=="', '"Mask":null'], 'IP'],
    [IDENTITY, ['cluster=alpha;', 'cluster=Alpha;'], 'k8s:io.cilium.k8s.policy.cluster'],
    [
      IDENTITY,
      ['k8s:io.cilium.k8s.policy.cluster=', 'x:io.cilium.k8s.policy.cluster='],
      'k8s:io.cilium.k8s.policy.cluster',
    ],
    [CACHED_IDENTITY, ['cluster=beta;', 'cluster=alpha;'], 'k8s:io.cilium.k8s.policy.cluster'],
    [CONFIG, ['"id":1', '"id":0'], 'id'],
    [CONFIG, ['"id":1', '"id":256'], 'id'],
    [
      CONFIG,
      ['"maxConnectedClusters":255', '"maxConnectedClusters":300'],
      'capabilities.maxConnectedClusters',
    ],
    [LARGE_CONFIG, ['"id":300', '"id":512'], 'id'],
    [LARGE_CONFIG, ['"maxConnectedClusters":511', '"maxConnectedClusters":255'], 'id'],
    [
      LARGE_CONFIG,
      ['"maxConnectedClusters":511', '"endpointSlicesExportMode":"all","maxConnectedClusters":511'],
      'capabilities.endpointSlicesExportMode',
    ],
    [REFERENCE, [values.get(REFERENCE) ?? '', '255'], 'identity'],
    [REFERENCE, [values.get(REFERENCE) ?? '', '09830657'], 'identity'],
  ];
  for (const [key, change, field] of cases) {
    const value = mutated(key, change);
    const { kind, error, value: encoded } = inspectPair(key, value, 511);
    const text = `${key}: ${change.join(' -> ')}`;
    t.equal(error?.field, field, text);
    t.ok(error?.message.includes(field), text);
    t.equal(encoded, undefined);
    t.not(kind, 'unknown');
  }
});

test('which identities and clusters are of the mesh depends on its size', async (t) => {
  const identity = 'cilium/state/identities/v1/id/';
  const labels = 'k8s:io.cilium.k8s.policy.cluster=alpha;';
  const cases: readonly (readonly [number, boolean, boolean])[] = [
    // In a mesh of 255 a cluster has 65,536 identities, in one of 511 half as many.
    [255, false, false],
    [32_767, false, false],
    [32_768, false, true],
    [65_535, false, true],
    [65_536, true, true],
    [16_777_215, true, true],
  ];
  for (const [id, in255, in511] of cases) {
    t.equal(inspectPair(identity + id, labels, 255).error === undefined, in255, `${id} in 255`);
    t.equal(inspectPair(identity + id, labels, 511).error === undefined, in511, `${id} in 511`);
  }
  for (const id of [1, 4, 6, 7, 8, 255]) {
    const value = JSON.stringify({ IP: '10.1.0.5', Mask: null, HostIP: '', ID: id });
    t.equal(inspectPair('cilium/state/ip/v1/default/10.1.0.5', value, 255).error, undefined);
  }
});

test('the labels in a reference to an identity are looked at as well', async (t) => {
  const cluster = 'k8s:io.cilium.k8s.policy.cluster=alpha';
  for (const [labels, valid] of [
    [`${cluster};`, true],
    [cluster, false],
    ['k8s:a=b;', false],
    [`a=b;${cluster};`, false],
  ] as const) {
    const key = `cilium/state/identities/v1/value/${labels}/192.0.2.1`;
    t.equal(inspectPair(key, '65793', 255).error === undefined, valid, labels);
  }
});

test('labels: short forms, empty values, separators in values', async (t) => {
  const label = 'k8s:io.cilium.k8s.policy.cluster=alpha;';
  for (const [given, written] of [
    [`$x;${label}`, `${label}reserved:x=;`],
    [`k8s:a=;${label}`, `k8s:a=;${label}`],
    [`k8s:a=b=c:d;${label}`, `k8s:a=b=c:d;${label}`],
    [`k8s:a;${label}`, `k8s:a=;${label}`],
  ] as const) {
    const { error, value, cluster } = inspectPair(IDENTITY, given, 255);
    t.strictSame([error, value, cluster], [undefined, written, 'alpha'], given);
  }
  for (const given of ['', label.slice(0, -1), `;${label}`, `a=b;${label}`, `k8s:=b;${label}`]) {
    t.type(inspectPair(IDENTITY, given, 255).error, Error, given);
  }
});

test('kinds of ours, slices and what is no key', async (t) => {
  const slice = 'cilium/state/endpointslices/v1/alpha/demo/web-1';
  const value = frameOf(sliceMessage({}));
  const seen = inspectPair(slice, value, 255);
  t.strictSame(
    [seen.kind, seen.cluster, seen.error, seen.value],
    ['endpoint-slice', 'alpha', undefined, value],
  );
  t.equal(seen.content?.name, 'web-1');
  for (const [parts, field] of [
    [{ cluster: 'beta' }, 'cluster'],
    [{ namespace: 'dome' }, 'namespace'],
    [{ name: 'web-2' }, 'name'],
    [{ clusterId: 0 }, 'clusterID'],
    [{ clusterId: 256 }, 'clusterID'],
  ] as const) {
    t.equal(inspectPair(slice, frameOf(sliceMessage(parts)), 255).error?.field, field);
  }
  for (const [key, text, kind, valid] of [
    ['isthmus/mesh/stamp', '{"schema":1,"at":1}', 'mesh-stamp', true],
    ['isthmus/mesh/stamp', '{"schema":2,"at":1}', 'mesh-stamp', false],
    [
      'isthmus/local/policies/NetworkPolicy/demo/a',
      '{"schema":1,"kind":"NetworkPolicy","namespace":"demo","name":"b","generation":0,"manifest":{}}',
      'local-policy',
      false,
    ],
    ['cilium/state/noderegister/v1/vm', '{"Name":"vm"}', 'internal', true],
    ['cilium/state/nodes/v2/alpha/n1', '{}', 'node', false],
    ['cilium/cache/ip/v1/beta/nonsense', '{}', 'ip', false],
    ['cilium/other', '{}', 'unknown', false],
    ['', '', 'unknown', false],
  ] as const) {
    const { kind: found, error } = inspectPair(key, text, 255);
    t.strictSame([found, error === undefined], [kind, valid], key);
  }
});
