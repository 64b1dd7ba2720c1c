import { test } from 'tap';
import { createLabelFilter, LabelFilterError, parseLabelFilter } from './label-filter.ts';

type Row = readonly [
  what: string,
  labels: string,
  taken: readonly string[],
  leftOut: readonly string[],
];

/** Cilium's documentation, "Limiting Identity-Relevant Labels", and the rules of `pkg/labelsfilter`. */
const ROWS: readonly Row[] = [
  [
    'by default everything counts that is not named',
    '',
    ['app', 'app.kubernetes.io/name', 'team', 'io.kubernetes.pod.namespace'],
    ['kubernetes.io/arch', 'io.kubernetes.x', 'pod-template-hash', 'topology.kubernetes.io/zone'],
  ],
  ['what is left out by name', '!team', ['app', 'steam'], ['team', 'teammate']],
  [
    'once something is taken by name, nothing else is but the default names',
    'k8s:app k8s:role',
    ['app', 'application', 'role', 'app.kubernetes.io/name', 'io.cilium.k8s.namespace.labels.x'],
    ['team', 'kubernetes.io/arch'],
  ],
  [
    'the longer match wins: taken',
    '!example\\.org example\\.org/keep',
    ['example.org/keep', 'example.org/keeper'],
    ['example.org/other', 'team'],
  ],
  ['an equal match leaves out', 'team,!team', [], ['team']],
  ['what is taken of a default exclusion', 'kubernetes\\.io/arch', ['kubernetes.io/arch'], ['app']],
  ['commas separate, too', 'app,role', ['app', 'role'], ['team']],
  ['a pattern matches from the beginning only', '!hash', ['my-hash'], ['hash', 'hashed']],
  ['what matches further on does not count', 'b', [], ['ab']],
  ['expressions', '!.*-hash$', ['hash'], ['a-hash', 'b-c-hash']],
  ['alternatives', '!(a|b)c', ['c', 'dc'], ['ac', 'bc']],
  ['of another source it says nothing about labels of pods', 'cidr:!x', ['x'], []],
  ['reserved labels are of another source', 'reserved:app', [], ['app']],
];

for (const [what, text, taken, leftOut] of ROWS) {
  test(`parseLabelFilter(): ${what}`, async (t) => {
    const filter = parseLabelFilter(text);
    for (const key of taken) t.ok(filter.includes(key), `${key} is taken`);
    for (const key of leftOut) t.notOk(filter.includes(key), `${key} is left out`);
  });
}

test('parseLabelFilter() names the expression that it cannot use', async (t) => {
  for (const text of ['!', 'k8s:', '(', '[a', 'a(?i:b)', '\\Qa\\E', '(?P<x>y)', '\\A', 'a\\z']) {
    t.throws(() => parseLabelFilter(text), LabelFilterError, text);
    t.throws(() => createLabelFilter([text]), {
      code: 'bad-pattern',
      message: /label expression "/,
    });
  }
});

test('a filter answers the same for more keys than it remembers', async (t) => {
  const filter = parseLabelFilter('!odd');
  for (let index = 0; index < 25_000; index += 1) {
    const key = `${index % 2 === 0 ? 'even' : 'odd'}-${index}`;
    if (filter.includes(key) !== (index % 2 === 0)) t.fail(key);
  }
  t.ok(filter.includes('even-0'));
});
