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
      ' is "Pod", expected NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy',
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
