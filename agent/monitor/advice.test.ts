import { readFileSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { FIRST_DROP_REASON, REASONS } from '../../mesh/wire/maps.ts';
import { CILIUM_REASONS } from '../metrics/traffic-metrics.ts';
import { ADVICE, adviceSentence, reasonName } from './advice.ts';

const DROPS = [...REASONS].filter(([number]) => number >= FIRST_DROP_REASON);

test('every drop says why and what to do, and there is no advice about nothing', (t) => {
  t.same(Object.keys(ADVICE).sort(), DROPS.map(([, name]) => name).sort());
  for (const [, name] of DROPS) {
    const sentence = adviceSentence(name);
    t.match(
      sentence,
      /^[^A-Z\n][^\n]+: [^\n]+[^.\n]$/,
      `${name}: one sentence, to be put behind others`,
    );
  }
  t.match(adviceSentence('reason-250'), /newer than this agent/);
  t.equal(reasonName(133), 'policy-denied');
  t.equal(reasonName(250), 'reason-250');
  t.end();
});

test('the documentation has the number, the meaning and the advice of every drop', (t) => {
  const documentation = readFileSync(projectPath('docs/datapath.md'), 'utf8');
  for (const [number, name] of DROPS) {
    const { meaning = '', advice = '' } = ADVICE[name] ?? {};
    const row = `| \`${name}\` | ${number} | ${meaning} | ${advice} |`;
    t.ok(documentation.includes(row), row);
  }
  t.end();
});

test("numbers below ours are Cilium's, and have Cilium's words", (t) => {
  for (const [number, name] of DROPS) {
    t.equal(CILIUM_REASONS.has(number), number < 224, `${number} ${name}`);
  }
  t.end();
});
