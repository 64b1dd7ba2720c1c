import { existsSync } from 'node:fs';
import { test } from 'tap';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { SLOW_TESTS } from './slow-tests.ts';
import { planJobs } from './test-plan.ts';

const SHORT = Array.from({ length: 40 }, (_, index) => `dist/mesh/wire/short-${index}.test.js`);
const [longest = '', long = ''] = SLOW_TESTS.map((name) => `dist/${name}.test.js`);
const LAB = 'dist/e2e/scenarios/unheard-of.test.js';

test('every slow test is a file, once', async (t) => {
  t.equal(new Set(SLOW_TESTS).size, SLOW_TESTS.length);
  const gone = SLOW_TESTS.filter((name) => !existsSync(projectPath(`dist/${name}.test.js`)));
  t.same(gone, [], 'take them out of scripts/slow-tests.ts');
});

test('long files have processes of their own and begin first, short ones share', async (t) => {
  const jobs = planJobs([...SHORT, long, LAB, longest], { apart: false });
  t.same(jobs.slice(0, 3), [[LAB], [longest], [long]]);
  t.same(
    jobs.slice(3).map((job) => job.length),
    [16, 16, 8],
  );
  t.same(
    jobs.flat().sort(),
    [...SHORT, long, LAB, longest].sort(),
    'none is lost, none runs twice',
  );
});

test('a few files, or those of a long run, share nothing', async (t) => {
  t.ok(planJobs(SHORT.slice(0, 16), { apart: false }).every((job) => job.length === 1));
  t.ok(planJobs(SHORT, { apart: true }).every((job) => job.length === 1));
});
