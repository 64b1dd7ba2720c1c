import { test } from 'tap';
import { decodeLabels, encodeLabels, findLabel, labelsFromRecord, sortLabels } from './identity.ts';
import { MAX_VALUE_BYTES } from './json.ts';
import { refusalOf } from './testing/refusal.ts';

const KEY = 'cilium/state/identities/v1/id/65793';

test('labels are sorted by key, then source', async (t) => {
  const labels = [
    { source: 'k8s', key: 'b', value: '2' },
    { source: 'k8s', key: 'a', value: '' },
    { source: 'container', key: 'b', value: '1' },
    { source: 'zeta', key: 'A', value: 'x=y:z' },
  ];
  t.equal(encodeLabels(labels), 'zeta:A=x=y:z;k8s:a=;container:b=1;k8s:b=2;');
  t.same(decodeLabels(encodeLabels(labels), KEY), sortLabels(labels));
  t.equal(encodeLabels([]), '');
});

test('label strings are parsed at the first separators', async (t) => {
  const cases: readonly (readonly [string, readonly [string, string, string]])[] = [
    ['k8s:a=b;', ['k8s', 'a', 'b']],
    ['k8s:a=b=c;', ['k8s', 'a', 'b=c']],
    ['k8s:a=b:c;', ['k8s', 'a', 'b:c']],
    ['k8s:a:b=c;', ['k8s', 'a:b', 'c']],
    ['k8s:empty=;', ['k8s', 'empty', '']],
    ['k8s:bare;', ['k8s', 'bare', '']],
    ['$host;', ['reserved', 'host', '']],
    ['$host=x;', ['reserved', 'host', 'x']],
    ['k8s:grüße=ß;', ['k8s', 'grüße', 'ß']],
  ];
  for (const [text, [source, key, value]] of cases) {
    t.same(decodeLabels(Buffer.from(text), KEY), [{ source, key, value }], text);
  }
  t.same(decodeLabels('', KEY), []);
});

test('what is no label string is refused', async (t) => {
  for (const [text, field] of [
    ['app=web;', 'app=web'],
    [';', ''],
    ['k8s:a=b;;', ''],
    [':a=b;', ':a=b'],
    ['k8s:=b;', 'k8s:=b'],
    ['=b;', '=b'],
    ['$;', '$'],
    ['a=k8s:b;', 'a=k8s:b'],
  ] as const) {
    const error = refusalOf(() => decodeLabels(text, KEY));
    t.equal(error.code, 'bad-field', text);
    t.equal(error.key, KEY);
    t.equal(error.field, field);
    t.match(error.message, /is not of the form source:key=value/);
  }
  const unended = refusalOf(() => decodeLabels('k8s:a=b', KEY));
  t.equal(unended.code, 'bad-value');
  t.equal(unended.key, KEY);
  t.match(unended.message, /does not end in ";"/);
});

test('size is counted in bytes', async (t) => {
  const fill = (character: string, bytes: number) =>
    `k8s:a=${character.repeat((bytes - 7) / Buffer.byteLength(character))};`;
  t.equal(decodeLabels(fill('x', MAX_VALUE_BYTES), KEY).length, 1);
  t.equal(refusalOf(() => decodeLabels(fill('x', MAX_VALUE_BYTES + 1), KEY)).code, 'too-large');
  const wide = refusalOf(() => decodeLabels(fill('é', MAX_VALUE_BYTES + 1), KEY));
  t.equal(wide.code, 'too-large');
  t.equal(wide.key, KEY);
  t.match(wide.message, `${MAX_VALUE_BYTES + 1} bytes, at most ${MAX_VALUE_BYTES} are accepted`);
});

test('what a label string cannot carry is refused when it is written', async (t) => {
  for (const label of [
    { source: 'a:b', key: 'c', value: '' },
    { source: 'a;b', key: 'c', value: '' },
    { source: 'a=b', key: 'c', value: '' },
    { source: '$a', key: 'c', value: '' },
    { source: '', key: 'c', value: '' },
    { source: 'a', key: '', value: '' },
    { source: 'a', key: 'b=c', value: '' },
    { source: 'a', key: 'b;c', value: '' },
    { source: 'a', key: 'b', value: 'c;d' },
  ]) {
    const error = refusalOf(() => encodeLabels([label]));
    t.equal(error.code, 'bad-value');
    t.match(error.message, /cannot encode label/);
  }
});

test('labels of an object are found by key', async (t) => {
  const labels = labelsFromRecord({ tier: 'x', app: 'web' });
  t.equal(encodeLabels(labels), 'k8s:app=web;k8s:tier=x;');
  t.same(findLabel(labels, 'app'), { source: 'k8s', key: 'app', value: 'web' });
  t.equal(findLabel(labels, 'none'), undefined);
  t.same(labelsFromRecord({ a: 'b' }, 'any'), [{ source: 'any', key: 'a', value: 'b' }]);
});
