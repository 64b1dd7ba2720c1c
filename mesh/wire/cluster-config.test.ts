import { test } from 'tap';
import { decodeClusterConfig, encodeClusterConfig } from './cluster-config.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = 'cilium/cluster-config/beta';

test('what is absent is left out, except the capabilities', async (t) => {
  for (const text of [
    '{}',
    '{"capabilities":null}',
    '{"id":0,"capabilities":{}}',
    '{"capabilities":{"syncedCanaries":false,"cached":null,"maxConnectedClusters":0,"endpointSlicesExportMode":""}}',
  ]) {
    t.equal(encodeClusterConfig(decodeClusterConfig(text, KEY)), '{"capabilities":{}}', text);
  }
});

test('off and unsupported service exports differ', async (t) => {
  for (const text of [
    '{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false}}',
    '{"id":3,"capabilities":{"cached":true,"maxConnectedClusters":511,"serviceExportsEnabled":true,"endpointSlicesExportMode":"new"}}',
    '{"id":3,"capabilities":{}}',
  ]) {
    t.equal(encodeClusterConfig(decodeClusterConfig(text, KEY)), text);
  }
});

test('unknown fields are left out and names match in any case', async (t) => {
  const config = decodeClusterConfig(
    '{"ID":3,"new":1,"Capabilities":{"SYNCEDCANARIES":true,"future":{"a":1}}}',
    KEY,
  );
  t.equal(encodeClusterConfig(config), '{"id":3,"capabilities":{"syncedCanaries":true}}');
});

test('each malformed field is refused with its key and name', async (t) => {
  const cases: readonly (readonly [object, string, string])[] = [
    [{ id: '3' }, 'id', ' is "3", expected a whole number of 0 to 4294967295'],
    [{ id: -1 }, 'id', ' is -1, expected a whole number of 0 to 4294967295'],
    [{ capabilities: [] }, 'capabilities', ' is a list, expected an object'],
    [
      { capabilities: { syncedCanaries: 1 } },
      'capabilities.syncedCanaries',
      ' is 1, expected true or false',
    ],
    [{ capabilities: { cached: 'no' } }, 'capabilities.cached', ' is "no", expected true or false'],
    [
      { capabilities: { maxConnectedClusters: 128 } },
      'capabilities.maxConnectedClusters',
      ': cannot parse max connected clusters 128: expected 255 or 511',
    ],
    [
      { capabilities: { serviceExportsEnabled: {} } },
      'capabilities.serviceExportsEnabled',
      ' is an object, expected true or false',
    ],
    [
      { capabilities: { endpointSlicesExportMode: 1 } },
      'capabilities.endpointSlicesExportMode',
      ' is 1, expected a string',
    ],
  ];
  for (const [object, field, complaint] of cases) {
    const error = refusalOf(() => decodeClusterConfig(JSON.stringify(object), KEY));
    t.equal(error.code, 'bad-field', field);
    t.equal(error.key, KEY);
    t.equal(error.field, field);
    t.equal(error.message, `cannot parse ${KEY}: field ${field}${complaint}`);
  }
});
