import { test } from 'tap';
import { decodeValue } from './decode-any.ts';
import { MAX_VALUE_BYTES } from './json.ts';
import { refusalOf } from './testing/refusal.ts';
import { frameOf, sliceMessage } from './testing/slice-writer.ts';

const NODE = 'cilium/state/nodes/v1/alpha/n1';

test('decodeValue() says the kind and the cluster, and writes the value again', async (t) => {
  const cases: readonly (readonly [string, string, object])[] = [
    [
      'cilium/cluster-config/alpha',
      '{"capabilities":{},"id":3,"extra":1}',
      { kind: 'cluster-config', cluster: 'alpha', value: '{"id":3,"capabilities":{}}' },
    ],
    [
      'cilium/cache/identities/v1/beta/id/131329',
      'k8s:b=2;k8s:a=1;',
      { kind: 'identity', cluster: 'beta', value: 'k8s:a=1;k8s:b=2;' },
    ],
    [
      'cilium/.heartbeat',
      '2026-01-02T05:04:05.5+02:00',
      { kind: 'heartbeat', cluster: undefined, value: '2026-01-02T05:04:05.5+02:00' },
    ],
    [
      'isthmus/local/policies/NetworkPolicy/demo/a',
      '{"manifest":{},"schema":1,"kind":"NetworkPolicy","namespace":"demo","name":"a"}',
      {
        kind: 'local-policy',
        cluster: undefined,
        value:
          '{"schema":1,"kind":"NetworkPolicy","namespace":"demo","name":"a","generation":0,"manifest":{}}',
      },
    ],
  ];
  for (const [key, value, expected] of cases) {
    t.strictSame(decodeValue(key, Buffer.from(value)), expected, key);
  }
});

test('values of internal keys stay closed, slices keep their bytes', async (t) => {
  const bytes = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0]);
  for (const key of ['cilium/.initlock/1a', 'isthmus/registry/nodes/n1']) {
    t.strictSame(decodeValue(key, bytes), { kind: 'internal', cluster: undefined, value: bytes });
  }
  const slice = 'cilium/state/endpointslices/v1/alpha/demo/web-1';
  t.match(refusalOf(() => decodeValue(slice, bytes)).message, /not Zstandard/);
  const value = frameOf(sliceMessage({ cluster: 'alpha', namespace: 'demo', name: 'web-1' }));
  t.strictSame(decodeValue(slice, value), { kind: 'endpoint-slice', cluster: 'alpha', value });
  t.strictSame(
    decodeValue('cilium/state/identities/v1/value/k8s:a=b;/192.0.2.1', Buffer.from('65793')),
    { kind: 'identity-reference', cluster: undefined, value: '65793' },
  );
});

test('what is no JSON object is refused with its key', async (t) => {
  for (const [value, message] of [
    ['', /^cannot parse cilium\/state\/nodes\/v1\/alpha\/n1: not JSON \(/],
    ['{', /: not JSON \(/],
    ['null', /: null, expected a JSON object$/],
    ['7', /: 7, expected a JSON object$/],
    ['"x"', /: "x", expected a JSON object$/],
    ['[]', /: a list, expected a JSON object$/],
  ] as const) {
    const error = refusalOf(() => decodeValue(NODE, Buffer.from(value)));
    t.equal(error.code, 'bad-value', value);
    t.equal(error.key, NODE);
    t.match(error.message, message);
  }
  t.equal(
    refusalOf(() => decodeValue('cilium/state/nodes/v2/a/b', Buffer.from('{}'))).code,
    'bad-key',
  );
});

test('values over 1.5 MiB are refused, of every kind but services', async (t) => {
  const large = Buffer.alloc(MAX_VALUE_BYTES + 1, ' ');
  for (const key of [
    NODE,
    'cilium/state/ip/v1/default/10.1.0.5',
    'cilium/state/identities/v1/id/65793',
    'cilium/cluster-config/alpha',
    'cilium/.heartbeat',
    'cilium/synced/alpha/cilium/state/nodes/v1',
    'isthmus/local/policies/NetworkPolicy/demo/a',
  ]) {
    const error = refusalOf(() => decodeValue(key, large));
    t.equal(error.code, 'too-large', key);
    t.equal(error.message, `cannot parse ${key}: 1572865 bytes, at most 1572864 are accepted`);
  }
  for (const key of [
    'cilium/state/services/v1/alpha/demo/web',
    'isthmus/local/services/demo/web',
  ]) {
    t.equal(
      refusalOf(() => decodeValue(key, large)).code,
      'bad-value',
      `${key}: read, but no JSON`,
    );
  }
});
