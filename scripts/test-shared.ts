/**
 * Test files that share one process: short ones, whose start would cost more than their tests. They run one after the other, and
 * a test of its own says in TAP where each ends. `scripts/test-file.ts` starts it.
 */
import { pathToFileURL } from 'node:url';
import { test } from 'tap';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { END_OF_FILE, SHARED_FILES } from './shared-files.ts';

for (const file of (process.env[SHARED_FILES] ?? '').split('\n').filter(Boolean)) {
  await import(pathToFileURL(projectPath(file)).href);
  await test(`${END_OF_FILE}${file}`, async () => {});
}
