import { test } from 'tap';
import { parseIpAddress } from './ip.ts';
import { decodeLocalService, encodeLocalService, type LocalService } from './local-service.ts';
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
    [{ headless: 0 }, 'headless', ' is 0, expected true or false'],
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
