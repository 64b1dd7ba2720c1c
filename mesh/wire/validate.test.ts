import { test } from 'tap';
import { type ClusterConfig, decodeClusterConfig } from './cluster-config.ts';
import { decodeLabels } from './identity.ts';
import { parseClusterId, parseClusterName, parseNumericIdentity } from './ids.ts';
import { decodeIpIdentity } from './ip-identity.ts';
import { decodeNode } from './node.ts';
import { type ParsedKey, parseKey } from './parse-key.ts';
import { decodeClusterService } from './service.ts';
import {
  identityAsSeenFromHere,
  type PeerIdentity,
  type Rejection,
  validateClusterConfig,
  validateClusterService,
  validateIdentity,
  validateIpIdentity,
  validateNode,
} from './validate.ts';

const beta: PeerIdentity = { name: parseClusterName('beta'), id: parseClusterId(2), max: 255 };
const betaOf511: PeerIdentity = { ...beta, max: 511 };

function keyOf<K extends ParsedKey['kind']>(kind: K, key: string): Extract<ParsedKey, { kind: K }> {
  const parsed = parseKey(key);
  if (parsed.kind !== kind) throw new Error(`${key} is of kind ${parsed.kind}, expected ${kind}`);
  return parsed as Extract<ParsedKey, { kind: K }>;
}

type Expected = readonly [reason: Rejection['reason'], message: string] | undefined;

function rejection(expected: Expected): Rejection | undefined {
  return expected && { reason: expected[0], message: expected[1] };
}

test('validateNode() wants the name, cluster and id of the key and the peer', async (t) => {
  const cases: readonly (readonly [string, object, Expected])[] = [
    ['cilium/state/nodes/v1/beta/n1', {}, undefined],
    ['cilium/cache/nodes/v1/beta/n1', {}, undefined],
    [
      'cilium/state/nodes/v1/beta/n1',
      { Cluster: 'alpha' },
      ['wrong-cluster', 'node n1: cluster alpha, expected beta'],
    ],
    ['cilium/state/nodes/v1/beta/n2', {}, ['key-mismatch', 'node n2: its value names node n1']],
    [
      'cilium/state/nodes/v1/beta/n1',
      { ClusterID: 3 },
      ['wrong-cluster-id', 'node n1: cluster id 3, expected 2'],
    ],
    [
      'cilium/state/nodes/v1/beta/n1',
      { ClusterID: 0 },
      ['wrong-cluster-id', 'node n1: cluster id 0, expected 2'],
    ],
  ];
  for (const [key, fields, expected] of cases) {
    const value = JSON.stringify({ Name: 'n1', Cluster: 'beta', ClusterID: 2, ...fields });
    t.same(validateNode(decodeNode(value, key), keyOf('node', key), beta), rejection(expected));
  }
  const foreign = 'cilium/state/nodes/v1/alpha/n1';
  const node = decodeNode('{"Name":"n1","Cluster":"beta","ClusterID":2}', foreign);
  t.equal(validateNode(node, keyOf('node', foreign), beta)?.reason, 'wrong-cluster');
});

test('validateIpIdentity() wants the address of the key, and an identity of the peer', async (t) => {
  const key = 'cilium/state/ip/v1/default/10.2.0.5';
  const outside = (id: number): Expected => [
    'identity-out-of-range',
    `address 10.2.0.5: identity ${id} is outside beta's range 131072 to 196607`,
  ];
  const reserved = (id: number): Expected => [
    'identity-reserved',
    `address 10.2.0.5: a peer may not give it reserved identity ${id}`,
  ];
  const cases: readonly (readonly [string, object, Expected])[] = [
    [key, { ID: 131_072 }, undefined],
    [key, { ID: 196_607 }, undefined],
    [key, { ID: 131_071 }, outside(131_071)],
    [key, { ID: 196_608 }, outside(196_608)],
    [key, { ID: 256 }, outside(256)],
    [key, { ID: 1 }, undefined],
    [key, { ID: 4 }, undefined],
    [key, { ID: 6 }, undefined],
    [key, { ID: 8 }, undefined],
    ...[0, 2, 3, 5, 7, 9, 10, 102, 255].map((id): readonly [string, object, Expected] => [
      key,
      { ID: id },
      reserved(id),
    ]),
    [
      key,
      { IP: '10.2.0.6', ID: 131_329 },
      ['key-mismatch', 'address 10.2.0.5: its value says 10.2.0.6'],
    ],
    [
      key,
      { Mask: '/////w==', ID: 131_329 },
      ['key-mismatch', 'address 10.2.0.5: its value says 10.2.0.5/32'],
    ],
    [
      'cilium/state/ip/v1/default/10.2.0.5/32',
      { ID: 131_329 },
      ['key-mismatch', 'address 10.2.0.5/32: its value says 10.2.0.5'],
    ],
    ['cilium/state/ip/v1/default/10.2.0.5/32', { Mask: '/////w==', ID: 131_329 }, undefined],
    ['cilium/cache/ip/v1/beta/10.2.0.5', { ID: 131_329 }, undefined],
    [
      'cilium/cache/ip/v1/gamma/10.2.0.5',
      { ID: 131_329 },
      ['wrong-cluster', 'address 10.2.0.5: published under cluster gamma, expected beta'],
    ],
  ];
  for (const [at, fields, expected] of cases) {
    const record = decodeIpIdentity(JSON.stringify({ IP: '10.2.0.5', ...fields }), at);
    t.same(
      validateIpIdentity(record, keyOf('ip', at), beta),
      rejection(expected),
      `${at} ${JSON.stringify(fields)}`,
    );
  }
  const of511 = (id: number) =>
    validateIpIdentity(
      decodeIpIdentity(JSON.stringify({ IP: '10.2.0.5', ID: id }), key),
      keyOf('ip', key),
      betaOf511,
    )?.reason;
  t.equal(of511(65_536), undefined);
  t.equal(of511(98_303), undefined);
  t.equal(of511(65_535), 'identity-out-of-range');
  t.equal(of511(98_304), 'identity-out-of-range');
});

test('the host of a peer is a remote node here', async (t) => {
  t.equal(identityAsSeenFromHere(parseNumericIdentity(1)), 6);
  for (const id of [0, 2, 6, 8, 131_329]) {
    t.equal(identityAsSeenFromHere(parseNumericIdentity(id)), id);
  }
});

test('validateIdentity() wants the range of the peer and its cluster label alone', async (t) => {
  const good = 'k8s:app=web;k8s:io.cilium.k8s.policy.cluster=beta;';
  const foreign = (id: number, values: string): Expected => [
    'cluster-label-foreign',
    `identity ${id}: cluster label ${values}, expected beta alone`,
  ];
  const missing: Expected = [
    'cluster-label-missing',
    'identity 131329: label k8s:io.cilium.k8s.policy.cluster is missing',
  ];
  const cases: readonly (readonly [number, string, Expected])[] = [
    [131_072, good, undefined],
    [196_607, good, undefined],
    [
      131_071,
      good,
      ['identity-out-of-range', "identity 131071: outside beta's range 131072 to 196607"],
    ],
    [
      196_608,
      good,
      ['identity-out-of-range', "identity 196608: outside beta's range 131072 to 196607"],
    ],
    [6, good, ['identity-out-of-range', "identity 6: outside beta's range 131072 to 196607"]],
    [131_329, '', ['no-labels', 'identity 131329: it has no labels']],
    [131_329, 'k8s:app=web;', missing],
    [131_329, 'any:io.cilium.k8s.policy.cluster=beta;', missing],
    [131_329, 'k8s:io.cilium.k8s.policy.cluster=alpha;', foreign(131_329, 'alpha')],
    [131_329, 'k8s:io.cilium.k8s.policy.cluster=;', foreign(131_329, '')],
    [
      131_329,
      'any:io.cilium.k8s.policy.cluster=alpha;k8s:io.cilium.k8s.policy.cluster=beta;',
      foreign(131_329, 'alpha, beta'),
    ],
    [
      131_329,
      'k8s:io.cilium.k8s.policy.cluster=beta;k8s:io.cilium.k8s.policy.cluster=beta;',
      foreign(131_329, 'beta, beta'),
    ],
    [
      131_329,
      `${good}reserved:host=;`,
      ['reserved-label', 'identity 131329: a peer may not use labels of source reserved'],
    ],
    [
      131_329,
      `${good}$world;`,
      ['reserved-label', 'identity 131329: a peer may not use labels of source reserved'],
    ],
  ];
  for (const [id, text, expected] of cases) {
    const labels = decodeLabels(text, `cilium/state/identities/v1/id/${id}`);
    t.same(
      validateIdentity(parseNumericIdentity(id), labels, beta),
      rejection(expected),
      `${id} ${text}`,
    );
  }
});

test('validateClusterService() wants the name, cluster and id of the key and the peer', async (t) => {
  const key = 'cilium/state/services/v1/beta/demo/web';
  const cases: readonly (readonly [string, object, Expected])[] = [
    [key, {}, undefined],
    [
      key,
      { cluster: 'alpha' },
      ['wrong-cluster', 'service demo/web: cluster alpha, expected beta'],
    ],
    [key, { namespace: 'other' }, ['key-mismatch', 'service demo/web: its value names other/web']],
    [key, { name: 'db' }, ['key-mismatch', 'service demo/web: its value names demo/db']],
    [key, { clusterID: 1 }, ['wrong-cluster-id', 'service demo/web: cluster id 1, expected 2']],
  ];
  for (const [at, fields, expected] of cases) {
    const value = { cluster: 'beta', namespace: 'demo', name: 'web', clusterID: 2, ...fields };
    const service = decodeClusterService(JSON.stringify(value), at);
    t.same(validateClusterService(service, keyOf('service', at), beta), rejection(expected));
  }
  const foreign = 'cilium/state/services/v1/alpha/demo/web';
  const service = decodeClusterService(
    '{"cluster":"beta","namespace":"demo","name":"web","clusterID":2}',
    foreign,
  );
  t.equal(
    validateClusterService(service, keyOf('service', foreign), beta)?.reason,
    'wrong-cluster',
  );
});

test('validateClusterConfig() says which side has to change what', async (t) => {
  const own = { name: parseClusterName('alpha'), id: parseClusterId(1) };
  const config = (text: string): ClusterConfig =>
    decodeClusterConfig(text, 'cilium/cluster-config/beta');
  const max = (value: number) => `{"id":2,"capabilities":{"maxConnectedClusters":${value}}}`;
  const mode = (value: string) => `{"id":2,"capabilities":{"endpointSlicesExportMode":"${value}"}}`;
  const cases: readonly (readonly [string, 255 | 511, string | undefined, RegExp | undefined])[] = [
    ['{"id":2}', 255, undefined, undefined],
    ['{"id":2}', 255, 'beta', undefined],
    [max(255), 255, undefined, undefined],
    [max(511), 511, undefined, undefined],
    [mode('services-and-endpointslices'), 255, undefined, undefined],
    [mode('endpointslices-only'), 255, undefined, undefined],
    ['{}', 255, undefined, /^cluster beta says its id is 0, expected 1 to 255/],
    ['{"id":256}', 255, undefined, /its id is 256, expected 1 to 255/],
    ['{"id":512}', 511, undefined, /its id is 512, expected 1 to 511/],
    ['{"id":1}', 255, undefined, /has our own cluster id 1/],
    ['{"id":2}', 255, 'gamma', /has cluster id 2, which cluster gamma holds already/],
    ['{"id":2}', 511, undefined, /in a mesh of 255 clusters and we are in one of 511/],
    [max(255), 511, undefined, /in a mesh of 255 clusters and we are in one of 511/],
    [max(511), 255, undefined, /in a mesh of 511 clusters and we are in one of 255/],
    [mode('slices'), 255, undefined, /mode "slices", which this version does not know/],
  ];
  for (const [text, size, holder, message] of cases) {
    const refusal = validateClusterConfig(config(text), {
      peer: beta.name,
      own: { ...own, max: size },
      holder: holder === undefined ? undefined : parseClusterName(holder),
    });
    if (message === undefined) t.equal(refusal, undefined, text);
    else t.match(refusal, message, text);
  }
});
