import { test } from 'tap';
import { decodeLocalPolicy, encodeLocalPolicy, type LocalPolicy } from './local-policy.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = 'isthmus/local/policies/NetworkPolicy/demo/allow';

const policy: LocalPolicy = {
  kind: 'NetworkPolicy',
  namespace: 'demo',
  name: 'allow',
  generation: 3,
  manifest: { kind: 'NetworkPolicy', spec: { ingress: [{ from: [{ podSelector: {} }] }] } },
};

const nested = (levels: number): unknown => {
  let value: unknown = 'x';
  for (let level = 0; level < levels; level += 1) value = level % 2 === 0 ? [value] : { a: value };
  return value;
};

test('a policy keeps its manifest as it was written', async (t) => {
  const text =
    '{"schema":1,"kind":"NetworkPolicy","namespace":"demo","name":"allow","generation":3,' +
    '"manifest":{"kind":"NetworkPolicy","spec":{"ingress":[{"from":[{"podSelector":{}}]}]}}}';
  t.equal(encodeLocalPolicy(policy), text);
  t.strictSame(decodeLocalPolicy(Buffer.from(text), KEY), policy);
  const turned = Object.fromEntries(Object.entries(policy).reverse()) as unknown as LocalPolicy;
  t.equal(encodeLocalPolicy(turned), text);
  t.same(decodeLocalPolicy(JSON.stringify({ ...JSON.parse(text), namespace: '' }), KEY), {
    ...policy,
    namespace: '',
  });
});

test('each malformed field is refused with its key and name', async (t) => {
  const levels = ' is an object, expected at most 100 levels of objects and lists';
  const cases: readonly (readonly [object, string, string])[] = [
    [
      { schema: 7 },
      'schema',
      ' is 7, expected 1: this version reads no other, upgrade the older side',
    ],
    [
      { kind: 'Pod' },
      'kind',
      ' is "Pod", expected NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, CiliumCIDRGroup',
    ],
    [{ namespace: 1 }, 'namespace', ' is 1, expected a string'],
    [{ name: '' }, 'name', ' is an empty string, expected a name'],
    [
      { generation: 0.5 },
      'generation',
      ' is 0.5, expected a whole number of 0 to 9007199254740991',
    ],
    [{ manifest: null }, 'manifest', ' is null, expected the object'],
    [{ manifest: [] }, 'manifest', ' is a list, expected an object'],
    [{ manifest: { a: nested(101) } }, 'manifest', levels],
    [{ origin: 'a.yaml' }, 'origin', ' is "a.yaml", expected an object'],
    [{ origin: { lines: {} } }, 'origin.file', ' is an empty string, expected a file'],
    [{ origin: { file: 'a.yaml', lines: [] } }, 'origin.lines', ' is a list, expected an object'],
    [
      { origin: { file: 'a.yaml', lines: { spec: -1 } } },
      'origin.lines',
      ' is -1, expected a whole number of 0 to 9007199254740991',
    ],
  ];
  for (const [fields, field, complaint] of cases) {
    const value = JSON.stringify({ ...JSON.parse(encodeLocalPolicy(policy)), ...fields });
    const error = refusalOf(() => decodeLocalPolicy(value, KEY));
    t.equal(error.code, 'bad-field', field);
    t.equal(error.key, KEY);
    t.equal(error.field, field);
    t.equal(error.message, `cannot parse ${KEY}: field ${field}${complaint}`);
  }
});

test('a manifest may be nested, but not so deeply that writing it would exhaust the stack', async (t) => {
  const value = (manifest: string) =>
    `{"schema":1,"kind":"NetworkPolicy","namespace":"demo","name":"x","manifest":${manifest}}`;
  t.ok(decodeLocalPolicy(value(JSON.stringify({ a: nested(98) })), KEY));
  const deep = `{"a":${'['.repeat(400_000)}${']'.repeat(400_000)}}`;
  t.equal(refusalOf(() => decodeLocalPolicy(value(deep), KEY)).field, 'manifest');
});

test('a group of networks travels as policies do', async (t) => {
  const group: LocalPolicy = {
    kind: 'CiliumCIDRGroup',
    namespace: '',
    name: 'office',
    generation: 1,
    manifest: { spec: { externalCIDRs: ['192.0.2.0/24'] } },
  };
  const text =
    '{"schema":1,"kind":"CiliumCIDRGroup","namespace":"","name":"office","generation":1,' +
    '"manifest":{"spec":{"externalCIDRs":["192.0.2.0/24"]}}}';
  t.equal(encodeLocalPolicy(group), text);
  t.strictSame(decodeLocalPolicy(text, 'isthmus/local/policies/CiliumCIDRGroup/_/office'), group);
});

test('a policy says where it stands, or does not', async (t) => {
  const origin = { file: 'web.yaml', lines: { '': 3, spec: 7, 'spec.ingress[0]': 9 } };
  const text = encodeLocalPolicy({ ...policy, origin });
  t.match(text, ',"origin":{"file":"web.yaml","lines":{"":3,"spec":7,"spec.ingress[0]":9}}}');
  t.strictSame(decodeLocalPolicy(text, KEY), { ...policy, origin });
  t.notOk('origin' in decodeLocalPolicy(encodeLocalPolicy(policy), KEY));
  const bare = JSON.parse(encodeLocalPolicy(policy));
  t.strictSame(decodeLocalPolicy(JSON.stringify({ ...bare, origin: null }), KEY), policy);
  t.strictSame(decodeLocalPolicy(JSON.stringify({ ...bare, origin: { file: 'a.yaml' } }), KEY), {
    ...policy,
    origin: { file: 'a.yaml', lines: {} },
  });
});
