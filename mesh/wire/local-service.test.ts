import { test } from 'tap';
import { parseIpAddress } from './ip.ts';
import {
  decodeLocalService,
  encodeLocalService,
  type LocalService,
  PLAIN_TRAFFIC,
} from './local-service.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = 'isthmus/local/services/demo/web';

const service: LocalService = {
  namespace: 'demo',
  name: 'web',
  clusterIps: [parseIpAddress('10.96.0.1')],
  ports: [{ name: 'http', protocol: 'TCP', port: 80 }],
  headless: false,
  global: true,
  shared: true,
  affinity: 'local',
  ...PLAIN_TRAFFIC,
  backends: new Map([
    [parseIpAddress('10.1.0.5'), new Map([['http', { protocol: 'TCP', port: 8080 }]])],
  ]),
};
const TEXT =
  '{"schema":1,"namespace":"demo","name":"web","clusterIps":["10.96.0.1"],' +
  '"ports":[{"name":"http","protocol":"TCP","port":80}],"headless":false,"global":true,"shared":true,' +
  '"affinity":"local","backends":{"10.1.0.5":{"http":{"Protocol":"TCP","Port":8080}}}}';

test('equal services have equal text, whatever order their fields have', async (t) => {
  t.equal(encodeLocalService(service), TEXT);
  const turned = Object.fromEntries(Object.entries(service).reverse()) as unknown as LocalService;
  const ports = [{ port: 80, protocol: 'TCP', name: 'http' }] as const;
  t.equal(encodeLocalService({ ...turned, ports }), TEXT);
  t.strictSame(decodeLocalService(Buffer.from(TEXT), KEY), service);
});

test('what a Service says of itself is written where it differs from a plain one', async (t) => {
  const http = new Map([['http', { protocol: 'TCP', port: 8080 } as const]]);
  const full: LocalService = {
    ...service,
    ports: [{ name: 'http', protocol: 'TCP', port: 80, nodePort: 30080 }],
    type: 'LoadBalancer',
    externalIps: [parseIpAddress('192.0.2.1')],
    loadBalancerIps: [parseIpAddress('192.0.2.2')],
    hasSourceRanges: true,
    affinitySeconds: 10_800,
    internalTrafficPolicy: 'Local',
    externalTrafficPolicy: 'Local',
    trafficDistribution: 'PreferClose',
    algorithm: 'maglev',
    draining: new Map([[parseIpAddress('10.1.0.6'), http]]),
    places: new Map([
      [parseIpAddress('10.1.0.5'), { node: 'n1', zone: 'za', forZones: ['za'], forNodes: [] }],
    ]),
  };
  const text =
    '{"schema":1,"namespace":"demo","name":"web","clusterIps":["10.96.0.1"],' +
    '"ports":[{"name":"http","protocol":"TCP","port":80,"nodePort":30080}],"headless":false,' +
    '"global":true,"shared":true,"affinity":"local","type":"LoadBalancer",' +
    '"externalIps":["192.0.2.1"],"loadBalancerIps":["192.0.2.2"],"hasSourceRanges":true,' +
    '"affinitySeconds":10800,"internalTrafficPolicy":"Local","externalTrafficPolicy":"Local",' +
    '"trafficDistribution":"PreferClose","algorithm":"maglev",' +
    '"backends":{"10.1.0.5":{"http":{"Protocol":"TCP","Port":8080}}},' +
    '"draining":{"10.1.0.6":{"http":{"Protocol":"TCP","Port":8080}}},' +
    '"places":[{"node":"n1","zone":"za","forZones":["za"],"ips":["10.1.0.5"]}]}';
  t.equal(encodeLocalService(full), text);
  t.strictSame(decodeLocalService(text, KEY), full);
});

test('a service of an older apiserver is a plain one', async (t) => {
  t.strictSame(decodeLocalService(TEXT, KEY), service);
});

test('each malformed field is refused with its key and name', async (t) => {
  const schema = 'expected 1: this version reads no other, upgrade the older side';
  const cases: readonly (readonly [object, string, string])[] = [
    [{ schema: 2 }, 'schema', ` is 2, ${schema}`],
    [{ schema: 0 }, 'schema', ` is 0, ${schema}`],
    [{ schema: '1' }, 'schema', ` is "1", ${schema}`],
    [{ schema: null }, 'schema', ` is null, ${schema}`],
    [{ namespace: '' }, 'namespace', ' is an empty string, expected a name'],
    [{ name: null }, 'name', ' is an empty string, expected a name'],
    [{ clusterIps: {} }, 'clusterIps', ' is an object, expected a list'],
    [
      { clusterIps: ['10.96.0.1', 'None'] },
      'clusterIps[1]',
      ': cannot parse "None": expected an IPv4 or IPv6 address',
    ],
    [{ ports: 1 }, 'ports', ' is 1, expected a list'],
    [{ ports: [1] }, 'ports[0]', ' is 1, expected an object'],
    [{ ports: [{}] }, 'ports[0].protocol', ' is undefined, expected TCP, UDP or SCTP'],
    [
      { ports: [{ protocol: 'UDP', port: -1 }] },
      'ports[0].port',
      ' is -1, expected a whole number of 0 to 65535',
    ],
    [
      { ports: [{ protocol: 'UDP', port: 1, nodePort: 70000 }] },
      'ports[0].nodePort',
      ' is 70000, expected a whole number of 0 to 65535',
    ],
    [
      { type: 'Cluster' },
      'type',
      ' is "Cluster", expected ClusterIP, NodePort, LoadBalancer, ExternalName',
    ],
    [
      { externalIps: ['x'] },
      'externalIps[0]',
      ': cannot parse "x": expected an IPv4 or IPv6 address',
    ],
    [{ loadBalancerIps: 1 }, 'loadBalancerIps', ' is 1, expected a list'],
    [{ hasSourceRanges: 1 }, 'hasSourceRanges', ' is 1, expected true or false'],
    [
      { affinitySeconds: 86_401 },
      'affinitySeconds',
      ' is 86401, expected a whole number of 0 to 86400',
    ],
    [
      { internalTrafficPolicy: 'local' },
      'internalTrafficPolicy',
      ' is "local", expected Cluster, Local',
    ],
    [{ externalTrafficPolicy: 1 }, 'externalTrafficPolicy', ' is 1, expected Cluster, Local'],
    [{ trafficDistribution: 1 }, 'trafficDistribution', ' is 1, expected a string'],
    [{ algorithm: 'wrr' }, 'algorithm', ' is "wrr", expected random, maglev'],
    [{ draining: 1 }, 'draining', ' is 1, expected an object'],
    [{ places: 1 }, 'places', ' is 1, expected a list'],
    [{ headless: 0 }, 'headless', ' is 0, expected true or false'],
    [{ labels: null }, 'labels', ' is null, expected an object of texts'],
    [{ labels: { app: 1 } }, 'labels["app"]', ' is 1, expected a string'],
    [{ global: 'x' }, 'global', ' is "x", expected true or false'],
    [{ shared: [] }, 'shared', ' is a list, expected true or false'],
    [{ affinity: 'near' }, 'affinity', ' is "near", expected none, local, remote'],
    [
      { backends: { x: {} } },
      'backends["x"]',
      ': cannot parse "x": expected an IPv4 or IPv6 address',
    ],
  ];
  for (const [fields, field, complaint] of cases) {
    const value = JSON.stringify({ ...JSON.parse(TEXT), ...fields });
    const error = refusalOf(() => decodeLocalService(value, KEY));
    t.equal(error.code, 'bad-field', field);
    t.equal(error.key, KEY);
    t.equal(error.field, field);
    t.equal(error.message, `cannot parse ${KEY}: field ${field}${complaint}`);
  }
});

test('labels travel where a service has some, and are left out where it has none', async (t) => {
  const plain = decodeLocalService(TEXT, KEY);
  t.equal('labels' in plain, false);
  const text = encodeLocalService({ ...plain, labels: { tier: 'db', app: 'x' } });
  t.match(text, '"labels":{"app":"x","tier":"db"}');
  t.same(decodeLocalService(text, KEY).labels, { app: 'x', tier: 'db' });
});
