import { test } from 'tap';
import { decodeServiceExport, encodeServiceExport } from './service-export.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = 'cilium/state/serviceexports/v1/alpha/data/db';
/** The smallest one, as Cilium 1.17 writes it. */
const SMALLEST =
  '{"cluster":"alpha","name":"db","namespace":"data","exportCreationTimestamp":"2026-01-02T03:04:05Z",' +
  '"ports":[{"name":"pg","protocol":"TCP","port":5432}],"type":"ClusterSetIP","sessionAffinity":"None"}';
/** With all fields, as Cilium 1.20 writes it. */
const LARGEST =
  '{"cluster":"alpha","name":"db","namespace":"data","annotations":{"a":"1"},"labels":{"l":"\\u003c"},' +
  '"Labels":{"l":"\\u003c"},"Annotations":{"a":"1"},"exportCreationTimestamp":"2026-01-02T03:04:05Z",' +
  '"ports":[{"port":1},{"name":"pg","protocol":"UDP","appProtocol":"x","port":65535}],"type":"Headless",' +
  '"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":10800}},' +
  '"ipFamilies":["IPv6","IPv4"],"internalTrafficPolicy":"Local","trafficDistribution":"PreferSameZone"}';

const decode = (fields: object) =>
  decodeServiceExport(JSON.stringify({ ...JSON.parse(SMALLEST), ...fields }), KEY);

test('exports are written as Cilium writes them', async (t) => {
  for (const text of [SMALLEST, LARGEST]) {
    t.equal(encodeServiceExport(decodeServiceExport(text, KEY)), text);
  }
  const { labels, annotations, ...rest } = JSON.parse(LARGEST);
  const copied = encodeServiceExport(decodeServiceExport(JSON.stringify(rest), KEY));
  t.equal(copied, LARGEST, 'labels under their old names alone are read');
  t.strictSame([labels, annotations], [{ l: '<' }, { a: '1' }]);
  const { Labels, Annotations, ...without } = JSON.parse(LARGEST);
  const once = encodeServiceExport(decodeServiceExport(JSON.stringify(without), KEY));
  t.strictSame(JSON.parse(once), without, 'and without the old names they are not added');
  t.ok(Labels && Annotations);
});

test('absent, null and empty', async (t) => {
  const value = decode({
    ports: null,
    labels: {},
    Annotations: {},
    ipFamilies: [],
    internalTrafficPolicy: null,
  });
  t.equal(value.labels, undefined);
  t.equal(value.legacyCopies, false);
  t.equal(value.ipFamilies, undefined);
  t.match(encodeServiceExport(value), '"ports":null');
  t.match(encodeServiceExport(decode({ ports: [] })), '"ports":[]');
  for (const config of [{}, { clientIP: {} }, { clientIP: { timeoutSeconds: 0 } }]) {
    const text = encodeServiceExport(decode({ sessionAffinityConfig: config }));
    t.strictSame(JSON.parse(text).sessionAffinityConfig, config);
  }
  t.equal(
    decode({ exportCreationTimestamp: '2026-01-02T05:04:05.9+02:00' }).exportedAt,
    Date.parse('2026-01-02T03:04:05Z'),
    'Go writes whole seconds, in UTC',
  );
  t.match(
    encodeServiceExport(decode({ labels: JSON.parse('{"__proto__":"x"}') })),
    '"__proto__":"x"',
  );
});

test('each malformed field is refused with its key and name', async (t) => {
  const cases: readonly (readonly [object, string])[] = [
    [{ cluster: '' }, 'cluster'],
    [{ namespace: '' }, 'namespace'],
    [{ name: null }, 'name'],
    [{ exportCreationTimestamp: null }, 'exportCreationTimestamp'],
    [{ exportCreationTimestamp: 'yesterday' }, 'exportCreationTimestamp'],
    [{ exportCreationTimestamp: '2026-02-30T00:00:00Z' }, 'exportCreationTimestamp'],
    [{ exportCreationTimestamp: '0001-01-01T00:00:00Z' }, 'exportCreationTimestamp'],
    [{ type: '' }, 'type'],
    [{ type: 'ClusterIP' }, 'type'],
    [{ sessionAffinity: '' }, 'sessionAffinity'],
    [{ sessionAffinity: undefined }, 'sessionAffinity'],
    [{ sessionAffinityConfig: [] }, 'sessionAffinityConfig'],
    [{ sessionAffinityConfig: { clientIP: 1 } }, 'sessionAffinityConfig.clientIP'],
    [
      { sessionAffinityConfig: { clientIP: { timeoutSeconds: 2 ** 31 } } },
      'sessionAffinityConfig.clientIP.timeoutSeconds',
    ],
    [{ ports: {} }, 'ports'],
    [{ ports: [{ port: 65_536 }] }, 'ports[0].port'],
    [{ ports: [{ port: 1, name: 2 }] }, 'ports[0].name'],
    [{ ports: [{ port: 1, appProtocol: 2 }] }, 'ports[0].appProtocol'],
    [{ ports: [1] }, 'ports[0]'],
    [{ ipFamilies: 'IPv4' }, 'ipFamilies'],
    [{ ipFamilies: [4] }, 'ipFamilies[0]'],
    [{ internalTrafficPolicy: 'local' }, 'internalTrafficPolicy'],
    [{ trafficDistribution: 'Prefer' }, 'trafficDistribution'],
    [{ labels: { a: 1 } }, 'labels["a"]'],
    [{ Annotations: { a: 1 } }, 'Annotations["a"]'],
  ];
  for (const [fields, field] of cases) {
    const error = refusalOf(() => decode(fields));
    t.strictSame([error.code, error.key, error.field], ['bad-field', KEY, field]);
  }
});
