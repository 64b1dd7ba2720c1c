import { readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../runtime/project-path.ts';
import { decodeEndpointSlice, MAX_SLICE_BYTES } from './endpoint-slice.ts';
import { refusalOf } from './testing/refusal.ts';
import { field, frameOf, sliceMessage } from './testing/slice-writer.ts';

const KEY = 'cilium/state/endpointslices/v1/alpha/demo/web-1';

test('slices of Cilium are read', async (t) => {
  const lines = readFileSync(projectPath('mesh/wire/testdata/cilium-random.jsonl'), 'utf8')
    .split('\n')
    .filter((line) => line.includes('/endpointslices/') && line.includes('"base64"'))
    .map((line) => JSON.parse(line));
  t.equal(lines.length, 24);
  let endpoints = 0;
  for (const { key, value } of lines) {
    const slice = decodeEndpointSlice(Buffer.from(value, 'base64'), key);
    t.ok(key.endsWith(`/${slice.cluster}/${slice.namespace}/${slice.name}`));
    endpoints += slice.endpoints.length;
  }
  t.ok(endpoints > 20, `${endpoints} endpoints`);
});

test('every field of a slice', async (t) => {
  const endpoint = Buffer.concat([
    field(1, '10.1.0.5'),
    field(1, '10.1.0.6'),
    field(2, Buffer.concat([field(1, 1), field(3, 0)])),
    field(3, 'web-0'),
    field(5, Buffer.concat([field(1, 'b'), field(2, '2')])),
    field(5, Buffer.concat([field(1, 'a')])),
    field(6, 'n1'),
    field(7, 'za'),
    field(8, Buffer.concat([field(1, field(1, 'za')), field(1, field(1, 'zb'))])),
    field(99, 'newer'),
  ]);
  const port = Buffer.concat([field(1, 'http'), field(2, 'TCP'), field(3, 8080), field(4, 'h2c')]);
  const value = frameOf(
    sliceMessage({
      labels: { z: '1', a: '2' },
      endpoints: [endpoint, Buffer.alloc(0)],
      ports: [port, Buffer.alloc(0)],
    }),
  );
  t.strictSame(decodeEndpointSlice(value, KEY), {
    cluster: 'alpha',
    clusterId: 1,
    namespace: 'demo',
    name: 'web-1',
    labels: { a: '2', z: '1' },
    annotations: {},
    addressType: 'IPv4',
    endpoints: [
      {
        addresses: ['10.1.0.5', '10.1.0.6'],
        conditions: { ready: true, serving: undefined, terminating: false },
        hostname: 'web-0',
        deprecatedTopology: { a: '', b: '2' },
        nodeName: 'n1',
        zone: 'za',
        forZones: ['za', 'zb'],
      },
      {
        addresses: [],
        conditions: { ready: undefined, serving: undefined, terminating: undefined },
        hostname: undefined,
        deprecatedTopology: {},
        nodeName: undefined,
        zone: undefined,
        forZones: undefined,
      },
    ],
    ports: [
      { name: 'http', protocol: 'TCP', port: 8080, appProtocol: 'h2c' },
      { name: undefined, protocol: undefined, port: undefined, appProtocol: undefined },
    ],
  });
});

test('what Cilium refuses is refused', async (t) => {
  const of = (address: string) => [field(1, address)];
  for (const [parts, name] of [
    [{ cluster: '' }, 'cluster'],
    [{ namespace: '' }, 'namespace'],
    [{ name: '' }, 'name'],
    [{ addressType: '' }, 'addressType'],
    [{ addressType: 'FQDN' }, 'addressType'],
    [{ endpoints: of('2001:db8::1') }, 'endpoints[0].addresses[0]'],
    [{ endpoints: of('10.1.0') }, 'endpoints[0].addresses[0]'],
    [{ addressType: 'IPv6', endpoints: of('10.1.0.5') }, 'endpoints[0].addresses[0]'],
    [{ addressType: 'IPv6', endpoints: of('fe80::1%eth0') }, 'endpoints[0].addresses[0]'],
  ] as const) {
    const error = refusalOf(() => decodeEndpointSlice(frameOf(sliceMessage(parts)), KEY));
    t.strictSame([error.code, error.field, error.key], ['bad-field', name, KEY]);
  }
});

test('bombs and what is no slice are refused', async (t) => {
  for (const [value, code, message] of [
    [Buffer.from('{}'), 'bad-value', /not Zstandard/],
    [frameOf(Buffer.from([0x0a])), 'bad-value', /not a slice in protobuf/],
    [frameOf(Buffer.from('0801', 'hex')), 'bad-value', /wire type/],
    [
      frameOf(Buffer.concat(new Array<Buffer>(60_000).fill(field(8, '')))),
      'too-large',
      /50000 items/,
    ],
    [
      Buffer.from('28b52ffde0ffffffffffffffff010000', 'hex'),
      'too-large',
      new RegExp(`${MAX_SLICE_BYTES}`),
    ],
    [Buffer.alloc(2_000_000), 'too-large', /at most 1572864/],
  ] as const) {
    const error = refusalOf(() => decodeEndpointSlice(value, KEY));
    t.equal(error.code, code);
    t.match(error.message, message);
  }
});
