import { test } from 'tap';
import { MAX_VALUE_BYTES } from './json.ts';
import { decodeClusterService, encodeClusterService, MAX_SERVICE_BYTES } from './service.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = 'cilium/state/services/v1/alpha/demo/web';
const SMALLEST = { cluster: 'alpha', namespace: 'demo', name: 'web' };

const decode = (fields: object) =>
  decodeClusterService(JSON.stringify({ ...SMALLEST, ...fields }), KEY);

test('absent maps are empty ones, and are written so; only labels and selector may be null', async (t) => {
  const empty =
    '{"cluster":"alpha","namespace":"demo","name":"web","frontends":{},"backends":{},"labels":{},"selector":{},' +
    '"includeExternal":false,"shared":false,"clusterID":0}';
  const nulls = {
    frontends: null,
    backends: null,
    hostnames: null,
    zones: null,
    includeExternal: null,
    shared: null,
    clusterID: null,
  };
  for (const fields of [{}, nulls, { hostnames: {}, zones: {} }]) {
    t.equal(encodeClusterService(decode(fields)), empty);
  }
  const none = encodeClusterService(decode({ labels: null, selector: null }));
  t.equal(none, empty.replace('"labels":{},"selector":{}', '"labels":null,"selector":null'));
  const service = decode({ backends: { '10.1.0.5': null } });
  t.same([...service.backends], [['10.1.0.5', new Map()]]);
});

test('maps are sorted by bytes, ports without a name are under the empty string', async (t) => {
  const service = decode({
    backends: {
      '10.1.0.9': { http: { Protocol: 'TCP', Port: 8080 }, '': { Protocol: 'UDP', Port: 53 } },
      '10.1.0.10': { '9': { Protocol: 'SCTP', Port: 9 }, '10': { Protocol: 'TCP', Port: 10 } },
    },
    zones: { '10.1.0.9': { zone: 'za', forZones: [{ name: 'zb' }] }, '10.1.0.10': {} },
    hostnames: { '10.1.0.9': 'web-0' },
    shared: true,
    clusterID: 511,
  });
  t.equal(
    encodeClusterService(service),
    '{"cluster":"alpha","namespace":"demo","name":"web","frontends":{},"backends":{' +
      '"10.1.0.10":{"10":{"Protocol":"TCP","Port":10},"9":{"Protocol":"SCTP","Port":9}},' +
      '"10.1.0.9":{"":{"Protocol":"UDP","Port":53},"http":{"Protocol":"TCP","Port":8080}}},' +
      '"hostnames":{"10.1.0.9":"web-0"},"zones":{"10.1.0.10":{"zone":"","forZones":null},' +
      '"10.1.0.9":{"zone":"za","forZones":[{"name":"zb"}]}},"labels":{},"selector":{},' +
      '"includeExternal":false,"shared":true,"clusterID":511}',
  );
});

test('unknown fields are left out and names match in any case', async (t) => {
  const service = decodeClusterService(
    '{"Cluster":"alpha","NAMESPACE":"demo","Name":"web","ClusterId":2,"Shared":true,"unknown":[{}],' +
      '"Frontends":{"2001:DB8::1":{"http":{"protocol":"TCP","port":80,"extra":1}}}}',
    KEY,
  );
  t.equal(service.clusterId, 2);
  t.equal(service.shared, true);
  t.same(
    [...service.frontends],
    [['2001:db8::1', new Map([['http', { protocol: 'TCP', port: 80 }]])]],
  );
});

test('one service may be larger than what etcd allows by default', async (t) => {
  const backends: Record<string, object> = {};
  const name = 'p'.repeat(60);
  for (let index = 0; index < 32_768; index += 1) {
    backends[`10.${index >> 14}.${(index >> 7) & 127}.${index & 127}`] = {
      [name]: { Protocol: 'TCP', Port: 8080 },
    };
  }
  const text = JSON.stringify({ ...SMALLEST, backends });
  t.ok(text.length > 3 * 1024 * 1024, `${text.length} bytes`);
  t.ok(text.length > MAX_VALUE_BYTES);
  const service = decodeClusterService(Buffer.from(text), KEY);
  t.equal(service.backends.size, 32_768);
  const again = decodeClusterService(encodeClusterService(service), KEY);
  t.equal(again.backends.size, 32_768);
  t.same(
    again.backends.get([...service.backends.keys()][32_767]!),
    new Map([[name, { protocol: 'TCP', port: 8080 }]]),
  );
  const error = refusalOf(() => decodeClusterService(' '.repeat(MAX_SERVICE_BYTES + 1), KEY));
  t.equal(error.code, 'too-large');
  t.equal(error.message, `cannot parse ${KEY}: 16777217 bytes, at most 16777216 are accepted`);
});

test('each malformed field is refused with its key and name', async (t) => {
  const ip = '10.1.0.5';
  const cases: readonly (readonly [object, string, string])[] = [
    [
      { cluster: '' },
      'cluster',
      ': cannot parse cluster name an empty string: expected 1 to 32 of a-z, 0-9 and "-", beginning and ending with a letter or digit',
    ],
    [
      { cluster: 'default' },
      'cluster',
      ': cannot use cluster name "default": it is reserved, choose another',
    ],
    [{ labels: 1 }, 'labels', ' is 1, expected an object'],
    [{ selector: { app: 1 } }, 'selector["app"]', ' is 1, expected a string'],
    [{ includeExternal: 'true' }, 'includeExternal', ' is "true", expected true or false'],
    [{ shared: 1 }, 'shared', ' is 1, expected true or false'],
    [{ clusterID: 1.5 }, 'clusterID', ' is 1.5, expected a whole number of 0 to 511'],
    [{ frontends: [] }, 'frontends', ' is a list, expected an object'],
    [
      { frontends: { web: {} } },
      'frontends["web"]',
      ': cannot parse "web": expected an IPv4 or IPv6 address',
    ],
    [{ backends: { [ip]: 1 } }, `backends["${ip}"]`, ' is 1, expected an object'],
    [
      { backends: { [ip]: { http: null } } },
      `backends["${ip}"]["http"]`,
      ' is null, expected an object',
    ],
    [
      { backends: { [ip]: { http: { Port: 1 } } } },
      `backends["${ip}"]["http"].Protocol`,
      ' is undefined, expected TCP, UDP or SCTP',
    ],
    [
      { backends: { [ip]: { '': { Protocol: 'tcp', Port: 1 } } } },
      `backends["${ip}"][""].Protocol`,
      ' is "tcp", expected TCP, UDP or SCTP',
    ],
    [
      { backends: { [ip]: { http: { Protocol: 'TCP', Port: 65_536 } } } },
      `backends["${ip}"]["http"].Port`,
      ' is 65536, expected a whole number of 0 to 65535',
    ],
    [{ hostnames: { [ip]: 1 } }, `hostnames["${ip}"]`, ' is 1, expected a string'],
    [{ zones: { [ip]: null } }, `zones["${ip}"]`, ' is null, expected an object'],
    [{ zones: { [ip]: { zone: 1 } } }, `zones["${ip}"].zone`, ' is 1, expected a string'],
    [
      { zones: { [ip]: { forZones: {} } } },
      `zones["${ip}"].forZones`,
      ' is an object, expected a list',
    ],
    [
      { zones: { [ip]: { forZones: ['zb'] } } },
      `zones["${ip}"].forZones[0]`,
      ' is "zb", expected an object',
    ],
  ];
  for (const [fields, field, complaint] of cases) {
    const error = refusalOf(() => decode(fields));
    t.equal(error.code, 'bad-field', field);
    t.equal(error.key, KEY);
    t.equal(error.field, field);
    t.equal(error.message, `cannot parse ${KEY}: field ${field}${complaint}`);
  }
  for (const field of ['namespace', 'name']) {
    const error = refusalOf(() => decode({ [field]: '' }));
    t.equal(error.field, field);
    t.match(error.message, `field ${field} is an empty string, expected `);
  }
});
