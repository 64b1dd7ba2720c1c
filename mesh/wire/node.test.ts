import { test } from 'tap';
import { parseClusterName } from './ids.ts';
import { parseIpAddress, parseIpPrefix } from './ip.ts';
import { decodeNode, encodeNode, nodeAddresses } from './node.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = 'cilium/state/nodes/v1/alpha/n1';
const SMALLEST = { Name: 'n1', Cluster: 'alpha' };

const decode = (fields: object) => decodeNode(JSON.stringify({ ...SMALLEST, ...fields }), KEY);

test('a node is written with every field, in the order and the forms of Cilium', async (t) => {
  const node = decode({
    Labels: { b: '<&>', a: '1', '10': 'x' },
    IPAddresses: [{ Type: 'InternalIP', IP: '192.0.2.1' }],
    IPv4AllocCIDR: '10.1.0.0/24',
    IPv6AllocCIDR: '2001:db8::/64',
    IPv4SecondaryAllocCIDRs: [],
  });
  t.equal(
    encodeNode(node),
    '{"Name":"n1","Cluster":"alpha","IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.1"}],' +
      '"IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":[],' +
      '"IPv6AllocCIDR":{"IP":"2001:db8::","Mask":"//////////8AAAAAAAAAAA=="},"IPv6SecondaryAllocCIDRs":null,' +
      '"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":0,"Source":"",' +
      '"EncryptionKey":0,"Labels":{"10":"x","a":"1","b":"\\u003c\\u0026\\u003e"},"Annotations":null,' +
      '"WireguardPubKey":"","BootID":""}',
  );
});

test('absent fields, null and the empty value of Go are the same', async (t) => {
  const expected = {
    name: 'n1',
    cluster: parseClusterName('alpha'),
    clusterId: 0,
    addresses: null,
    ipv4AllocCidr: null,
    ipv6AllocCidr: null,
    ipv4SecondaryAllocCidrs: null,
    ipv6SecondaryAllocCidrs: null,
    ipv4HealthIp: null,
    ipv6HealthIp: null,
    ipv4IngressIp: null,
    ipv6IngressIp: null,
    source: '',
    encryptionKey: 0,
    labels: null,
    annotations: null,
    wireguardPubKey: '',
    bootId: '',
  };
  t.strictSame(decode({}), expected);
  const nulls = Object.fromEntries(
    Object.keys(JSON.parse(encodeNode(decode({})))).map((field) => [field, null]),
  );
  t.strictSame(decode({ ...nulls, ...SMALLEST }), expected);
  t.strictSame(decode({ Labels: {} }).labels, {}, 'an empty map stays one');
});

test('networks are read in both forms', async (t) => {
  for (const [object, text, prefix] of [
    [{ IP: '10.1.0.0', Mask: '////AA==' }, '10.1.0.0/24', '10.1.0.0/24'],
    [{ IP: '10.1.0.9', Mask: '//8AAA==' }, '10.1.0.9/16', '10.1.0.0/16'],
    [{ IP: '2001:db8::', Mask: '//////////8AAAAAAAAAAA==' }, '2001:db8::/64', '2001:db8::/64'],
    [{ ip: '10.1.0.1', mask: '/////w==' }, '10.1.0.1/32', '10.1.0.1/32'],
    [{ IP: '0.0.0.0', Mask: 'AAAAAA==' }, '0.0.0.0/0', '0.0.0.0/0'],
  ] as const) {
    const expected = parseIpPrefix(prefix);
    t.equal(decode({ IPv4AllocCIDR: object }).ipv4AllocCidr, expected);
    t.equal(decode({ IPv4AllocCIDR: text }).ipv4AllocCidr, expected);
    const { ipv6SecondaryAllocCidrs } = decode({ IPv6SecondaryAllocCIDRs: [object, text] });
    t.same(ipv6SecondaryAllocCidrs, [expected, expected]);
  }
  t.equal(decode({ IPv4AllocCIDR: '' }).ipv4AllocCidr, null);
});

test('unknown fields are left out, names match in any case, the exact one first', async (t) => {
  const node = decodeNode(
    '{"NAME":"n1","cluster":"alpha","clusterid":3,"ClusterID":4,"NodeIdentity":7,"New":{"a":[1]},"bootID":"b",' +
      '"ipaddresses":[{"type":"ExternalIP","ip":"2001:DB8::1","Zone":"x"}],"encryptionKEY":255}',
    KEY,
  );
  t.equal(node.name, 'n1');
  t.equal(node.clusterId, 4);
  t.equal(node.bootId, 'b');
  t.equal(node.encryptionKey, 255);
  t.same(node.addresses, [{ type: 'ExternalIP', ip: parseIpAddress('2001:db8::1') }]);
  t.equal(node.nodeIdentity, 7, 'Cilium up to 1.19 writes it, so it is kept');
  t.match(encodeNode(node), '"Annotations":null,"NodeIdentity":7,"WireguardPubKey"');
  t.notOk('New' in JSON.parse(encodeNode(node)));
});

test('addresses of unknown types and entries without an address do not cost the node', async (t) => {
  const entries = [
    { Type: 'InternalIP', IP: '192.0.2.1' },
    { Type: 'NewerType', IP: '2001:db8::1' },
    { Type: 'Hostname', IP: '' },
    { Type: '', IP: '10.1.0.9' },
  ];
  const node = decode({ IPAddresses: entries });
  t.same(JSON.parse(encodeNode(node)).IPAddresses, entries, 'written again as they were');
  t.same(nodeAddresses(node), [
    { type: 'InternalIP', ip: '192.0.2.1' },
    { type: 'NewerType', ip: '2001:db8::1' },
    { type: '', ip: '10.1.0.9' },
  ]);
  t.same(nodeAddresses(decode({ IPAddresses: null })), []);
  t.same(JSON.parse(encodeNode(decode({ IPAddresses: [] }))).IPAddresses, []);
});

test('halves of characters are written as Go writes them', async (t) => {
  const node = decodeNode(
    '{"Name":"n1","Cluster":"alpha","Labels":{"a":"\\ud800x\\udfff\\ud83d\\ude00","\\udc00":"","b":"\\\\ud800"}}',
    KEY,
  );
  const text = '"Labels":{"a":"\ufffdx\ufffd\u{1f600}","b":"\\\\ud800","\ufffd":""}';
  t.ok(encodeNode(node).includes(text), encodeNode(node));
});

test('names of objects have no meaning as names of labels', async (t) => {
  const node = decodeNode(
    '{"Name":"n1","Cluster":"alpha","Labels":{"__proto__":"x","constructor":"y"}}',
    KEY,
  );
  t.match(encodeNode(node), '"Labels":{"__proto__":"x","constructor":"y"}');
});

test('each malformed field is refused with its key and name', async (t) => {
  const cases: readonly (readonly [object, string, string])[] = [
    [{ Name: '' }, 'Name', 'is an empty string, expected the name of the node'],
    [{ Name: 1 }, 'Name', 'is 1, expected a string'],
    [
      { Cluster: 'A' },
      'Cluster',
      ': cannot parse cluster name "A": expected 1 to 32 of a-z, 0-9 and "-", beginning and ending with a letter or digit',
    ],
    [{ ClusterID: -1 }, 'ClusterID', 'is -1, expected a whole number of 0 to 511'],
    [{ ClusterID: 512 }, 'ClusterID', 'is 512, expected a whole number of 0 to 511'],
    [{ ClusterID: '1' }, 'ClusterID', 'is "1", expected a whole number of 0 to 511'],
    [{ EncryptionKey: 256 }, 'EncryptionKey', 'is 256, expected a whole number of 0 to 255'],
    [{ IPAddresses: {} }, 'IPAddresses', 'is an object, expected a list'],
    [{ IPAddresses: [1] }, 'IPAddresses[0]', 'is 1, expected an object'],
    [{ IPAddresses: [{}, { Type: 7 }] }, 'IPAddresses[1].Type', 'is 7, expected a string'],
    [{ NodeIdentity: -1 }, 'NodeIdentity', 'is -1, expected a whole number of 0 to 4294967295'],
    [
      { IPAddresses: [{ Type: 'InternalIP', IP: '192.0.2' }] },
      'IPAddresses[0].IP',
      ': cannot parse "192.0.2": expected an IPv4 or IPv6 address',
    ],
    [{ IPv4AllocCIDR: 7 }, 'IPv4AllocCIDR', 'is 7, expected an object'],
    [
      { IPv4AllocCIDR: '10.0.0.0/33' },
      'IPv4AllocCIDR',
      ': cannot make prefix 10.0.0.0/33: expected a length of 0 to 32',
    ],
    [
      { IPv4AllocCIDR: { Mask: '////AA==' } },
      'IPv4AllocCIDR.IP',
      ': cannot parse an empty string: expected an IPv4 or IPv6 address',
    ],
    [
      { IPv4AllocCIDR: { IP: '10.0.0.0' } },
      'IPv4AllocCIDR.Mask',
      'is null, expected a base64 mask',
    ],
    [
      { IPv4AllocCIDR: { IP: '10.0.0.0', Mask: '*' } },
      'IPv4AllocCIDR.Mask',
      'is "*", expected a base64 mask',
    ],
    [
      { IPv4AllocCIDR: { IP: '10.0.0.0', Mask: '//8A' } },
      'IPv4AllocCIDR.Mask',
      'is "//8A", expected a mask of 4 bytes in base64',
    ],
    [
      { IPv6AllocCIDR: { IP: '2001:db8::', Mask: '////AA==' } },
      'IPv6AllocCIDR.Mask',
      'is "////AA==", expected a mask of 16 bytes in base64',
    ],
    [
      { IPv4AllocCIDR: { IP: '10.0.0.0', Mask: 'AAAA/w==' } },
      'IPv4AllocCIDR.Mask',
      'is "AAAA/w==", expected a mask whose ones come first',
    ],
    [
      { IPv4SecondaryAllocCIDRs: '10.0.0.0/8' },
      'IPv4SecondaryAllocCIDRs',
      'is "10.0.0.0/8", expected a list',
    ],
    [
      { IPv6SecondaryAllocCIDRs: [null] },
      'IPv6SecondaryAllocCIDRs[0]',
      'is null, expected a network',
    ],
    [{ IPv4HealthIP: 'x' }, 'IPv4HealthIP', ': cannot parse "x": expected an IPv4 or IPv6 address'],
    [{ IPv6HealthIP: [] }, 'IPv6HealthIP', 'is a list, expected a string'],
    [{ IPv4IngressIP: 1 }, 'IPv4IngressIP', 'is 1, expected a string'],
    [{ IPv6IngressIP: false }, 'IPv6IngressIP', 'is false, expected a string'],
    [{ Source: {} }, 'Source', 'is an object, expected a string'],
    [{ Labels: [] }, 'Labels', 'is a list, expected an object'],
    [{ Labels: { 'a/b': 1 } }, 'Labels["a/b"]', 'is 1, expected a string'],
    [{ Annotations: 'x' }, 'Annotations', 'is "x", expected an object'],
    [{ WireguardPubKey: 1 }, 'WireguardPubKey', 'is 1, expected a string'],
    [{ BootID: 1 }, 'BootID', 'is 1, expected a string'],
  ];
  for (const [fields, field, complaint] of cases) {
    const error = refusalOf(() => decode(fields));
    t.equal(error.code, 'bad-field', field);
    t.equal(error.key, KEY);
    t.equal(error.field, field);
    const separator = complaint.startsWith(':') ? '' : ' ';
    t.equal(error.message, `cannot parse ${KEY}: field ${field}${separator}${complaint}`);
  }
  const missing = refusalOf(() => decodeNode('{"Cluster":"alpha"}', KEY));
  t.equal(missing.field, 'Name');
});
