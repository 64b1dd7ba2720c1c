import { test } from 'tap';
import { parseIpPrefix } from './ip.ts';
import { decodeIpIdentity, encodeIpIdentity } from './ip-identity.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = 'cilium/state/ip/v1/default/10.1.0.5';

const decode = (fields: object) =>
  decodeIpIdentity(JSON.stringify({ IP: '10.1.0.5', ...fields }), KEY);

test('an address without a mask is one address', async (t) => {
  for (const fields of [{ Mask: null }, { Mask: '' }]) {
    const record = decode(fields);
    t.equal(record.prefix, parseIpPrefix('10.1.0.5/32'));
    t.equal(record.isCidr, false);
    t.match(encodeIpIdentity(record), '"IP":"10.1.0.5","Mask":null,');
  }
  t.equal(decode({ IP: '2001:db8::5' }).prefix, '2001:db8::5/128');
  // Versions after 1.20 leave the mask out, and then so do we.
  t.equal(decode({}).isCidr, false);
  t.match(encodeIpIdentity(decode({})), '"IP":"10.1.0.5","HostIP"');
});

test('a mask makes a network, even a whole one', async (t) => {
  const network = decode({ IP: '10.200.0.0', Mask: '//8AAA==' });
  t.equal(network.prefix, '10.200.0.0/16');
  t.equal(network.isCidr, true);
  t.match(encodeIpIdentity(network), '"IP":"10.200.0.0","Mask":"//8AAA=="');
  const host = decode({ Mask: '/////w==' });
  t.equal(host.prefix, '10.1.0.5/32');
  t.equal(host.isCidr, true);
  const six = decode({ IP: '2001:db8::', Mask: '//////////8AAAAAAAAAAA==' });
  t.equal(six.prefix, '2001:db8::/64');
});

test('fields of a newer version, null and other cases are read', async (t) => {
  const record = decodeIpIdentity(
    '{"ip":"10.1.0.5","hostip":"192.0.2.1","id":65793,"K8sPodUID":"u","k8snamespace":"demo","K8SPODNAME":null,' +
      '"Key":null,"Metadata":null,"NamedPorts":[{"name":"http","port":8080,"PROTOCOL":"TCP"}]}',
    KEY,
  );
  t.strictSame(record, {
    prefix: parseIpPrefix('10.1.0.5/32'),
    isCidr: false,
    hostIp: '192.0.2.1',
    identity: 65_793,
    encryptionKey: 0,
    metadata: '',
    namespace: 'demo',
    podName: undefined,
    serviceAccount: undefined,
    namedPorts: [{ name: 'http', port: 8080, protocol: 'TCP' }],
    newForm: { podUid: 'u' },
  });
  t.equal(
    encodeIpIdentity(record),
    '{"IP":"10.1.0.5","HostIP":"192.0.2.1","ID":65793,"Key":0,"Metadata":"","K8sNamespace":"demo",' +
      '"K8sPodUID":"u","NamedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}',
  );
  t.equal(decode({ NamedPorts: [] }).namedPorts, undefined);
  t.equal(decode({}).identity, 0, 'an absent number is 0, as in Go');
});

test('each malformed field is refused with its key and name', async (t) => {
  const address = 'expected an IPv4 or IPv6 address';
  const identity = 'expected an integer below 2^24';
  const cases: readonly (readonly [object, string, string])[] = [
    [{ IP: null }, 'IP', `: cannot parse null: ${address}`],
    [{ IP: '' }, 'IP', `: cannot parse an empty string: ${address}`],
    [{ IP: '10.1.0.5/32' }, 'IP', `: cannot parse "10.1.0.5/32": ${address}`],
    [
      { IP: '10.1.2.3', Mask: '//8AAA==' },
      'IP',
      ' is "10.1.2.3", expected 10.1.0.0, the first address of its network',
    ],
    [{ Mask: '//8A' }, 'Mask', ' is "//8A", expected a mask of 4 bytes in base64'],
    [{ Mask: '/wAAAA' }, 'Mask', ' is "/wAAAA", expected a base64 mask'],
    [{ Mask: 1 }, 'Mask', ' is 1, expected a string'],
    [{ Mask: '!' }, 'Mask', ' is "!", expected a base64 mask'],
    [{ Mask: '/w==' }, 'Mask', ' is "/w==", expected a mask of 4 bytes in base64'],
    [{ Mask: '/wD/AA==' }, 'Mask', ' is "/wD/AA==", expected a mask whose ones come first'],
    [{ HostIP: 'node1' }, 'HostIP', `: cannot parse "node1": ${address}`],
    [{ HostIP: 1 }, 'HostIP', ' is 1, expected a string'],
    [{ ID: '1' }, 'ID', `: cannot parse identity "1": ${identity}`],
    [{ ID: -1 }, 'ID', `: cannot parse identity -1: ${identity}`],
    [{ ID: 16_777_216 }, 'ID', `: cannot parse identity 16777216: ${identity}`],
    [{ Key: 256 }, 'Key', ' is 256, expected a whole number of 0 to 255'],
    [{ Metadata: {} }, 'Metadata', ' is an object, expected a string'],
    [{ K8sNamespace: 1 }, 'K8sNamespace', ' is 1, expected a string'],
    [{ K8sPodName: [] }, 'K8sPodName', ' is a list, expected a string'],
    [{ K8sServiceAccount: true }, 'K8sServiceAccount', ' is true, expected a string'],
    [{ NamedPorts: {} }, 'NamedPorts', ' is an object, expected a list'],
    [{ NamedPorts: [null] }, 'NamedPorts[0]', ' is null, expected an object'],
    [{ NamedPorts: [{ Name: 1 }] }, 'NamedPorts[0].Name', ' is 1, expected a string'],
    [
      { NamedPorts: [{}, { Port: 65_536 }] },
      'NamedPorts[1].Port',
      ' is 65536, expected a whole number of 0 to 65535',
    ],
    [{ NamedPorts: [{ Protocol: 6 }] }, 'NamedPorts[0].Protocol', ' is 6, expected a string'],
  ];
  for (const [fields, field, complaint] of cases) {
    const error = refusalOf(() => decode(fields));
    t.equal(error.code, 'bad-field', field);
    t.equal(error.key, KEY);
    t.equal(error.field, field);
    t.equal(error.message, `cannot parse ${KEY}: field ${field}${complaint}`);
  }
});
