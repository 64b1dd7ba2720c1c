import { test } from 'tap';
import type { Labels } from '../../mesh/wire/identity.ts';
import { PolicyError } from './policy-error.ts';
import { parseSelector, selectorKey, selectorMatches } from './selector.ts';

const labels: Labels = [
  { source: 'k8s', key: 'app', value: 'web' },
  { source: 'k8s', key: 'tier', value: '' },
  { source: 'container', key: 'app', value: 'other' },
];

const cases: readonly [name: string, selector: unknown, sourced: boolean, matches: boolean][] = [
  ['an empty selector', {}, false, true],
  ['a value', { matchLabels: { app: 'web' } }, false, true],
  ['another value', { matchLabels: { app: 'db' } }, false, false],
  ['an empty value', { matchLabels: { tier: '' } }, false, true],
  ['all of several', { matchLabels: { app: 'web', tier: 'x' } }, false, false],
  [
    'In',
    { matchExpressions: [{ key: 'app', operator: 'In', values: ['db', 'web'] }] },
    false,
    true,
  ],
  [
    'NotIn',
    { matchExpressions: [{ key: 'app', operator: 'NotIn', values: ['web'] }] },
    false,
    false,
  ],
  [
    'NotIn of an absent label',
    { matchExpressions: [{ key: 'zone', operator: 'NotIn', values: ['a'] }] },
    false,
    true,
  ],
  ['Exists', { matchExpressions: [{ key: 'tier', operator: 'Exists' }] }, false, true],
  [
    'Exists of an absent label',
    { matchExpressions: [{ key: 'zone', operator: 'Exists' }] },
    false,
    false,
  ],
  ['DoesNotExist', { matchExpressions: [{ key: 'zone', operator: 'DoesNotExist' }] }, false, true],
  ['a source', { matchLabels: { 'container:app': 'other' } }, true, true],
  ['the wrong source', { matchLabels: { 'container:app': 'web' } }, true, false],
  ['any source', { matchLabels: { app: 'other' } }, true, true],
  ['any source by name', { matchLabels: { 'any:app': 'other' } }, true, true],
  ['Kubernetes keys without sources', { matchLabels: { app: 'other' } }, false, false],
  ['null fields', { matchLabels: null, matchExpressions: null }, false, true],
];

for (const [name, selector, sourced, matches] of cases) {
  test(`parseSelector() and selectorMatches(): ${name}`, async (t) => {
    t.equal(selectorMatches(parseSelector(selector, { path: 'spec', sourced }), labels), matches);
  });
}

const broken: readonly [name: string, selector: unknown, path: string][] = [
  ['a list', [], 'spec'],
  ['nothing', undefined, 'spec'],
  ['an unknown field', { matchNames: [] }, 'spec.matchNames'],
  ['a value that is no text', { matchLabels: { app: 1 } }, 'spec.matchLabels["app"]'],
  [
    'an unknown operator',
    { matchExpressions: [{ key: 'a', operator: 'Gt', values: ['1'] }] },
    'spec.matchExpressions[0].operator',
  ],
  [
    'In without values',
    { matchExpressions: [{ key: 'a', operator: 'In', values: [] }] },
    'spec.matchExpressions[0].values',
  ],
  [
    'Exists with values',
    { matchExpressions: [{ key: 'a', operator: 'Exists', values: ['b'] }] },
    'spec.matchExpressions[0].values',
  ],
  ['no key', { matchExpressions: [{ operator: 'Exists' }] }, 'spec.matchExpressions[0].key'],
];

for (const [name, selector, path] of broken) {
  test(`parseSelector() refuses ${name}`, async (t) => {
    try {
      parseSelector(selector, { path: 'spec', sourced: false });
      t.fail('expected an error');
    } catch (error) {
      t.ok(error instanceof PolicyError);
      t.equal((error as PolicyError).path, path);
      t.match((error as PolicyError).message, path);
    }
  });
}

test('selectorKey() does not depend on the order of what is asked', async (t) => {
  const parse = (selector: unknown) => parseSelector(selector, { path: 'spec', sourced: false });
  const a = parse({
    matchLabels: { a: '1', b: '2' },
    matchExpressions: [{ key: 'c', operator: 'In', values: ['x', 'y'] }],
  });
  const b = parse({
    matchExpressions: [{ key: 'c', operator: 'In', values: ['y', 'x'] }],
    matchLabels: { b: '2', a: '1' },
  });
  t.equal(selectorKey(a), selectorKey(b));
  t.not(selectorKey(a), selectorKey(parse({ matchLabels: { a: '1', b: '3' } })));
});
