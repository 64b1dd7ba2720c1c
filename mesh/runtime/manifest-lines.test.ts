import { test } from 'tap';
import { LineCounter, parseDocument } from 'yaml';
import { fieldOf, policyLines } from './manifest-lines.ts';

function linesOf(text: string): Record<string, number> {
  const lineCounter = new LineCounter();
  return policyLines(parseDocument(text, { lineCounter }).contents, lineCounter);
}

test('policyLines() finds specs and rules', async (t) => {
  const text = 'kind: x\nspec:\n  egress:\n  -  {}\n  - {}\nspecs:\n- ingressDeny: [1,\n    2]\n';
  t.same(linesOf(text), {
    '': 1,
    spec: 3,
    'spec.egress[0]': 4,
    'spec.egress[1]': 5,
    'specs[0]': 7,
    'specs[0].ingressDeny[0]': 7,
    'specs[0].ingressDeny[1]': 8,
  });
});

test('policyLines() takes whatever stands in the place of a policy', async (t) => {
  t.same(linesOf(''), {});
  t.same(linesOf('text'), { '': 1 });
  t.same(linesOf('spec: [1]\nspecs: {}'), { '': 1, spec: 1 });
  t.same(linesOf('spec: {ingress: {}, egress: 7}'), { '': 1, spec: 1 });
  t.same(policyLines(undefined, new LineCounter()), {});
  t.same(policyLines(7, new LineCounter()), {});
  t.equal(fieldOf(undefined, 'kind'), undefined);
});
