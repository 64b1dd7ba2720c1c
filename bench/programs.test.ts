import { test } from 'tap';
import { kernelSkipReason } from '../agent/datapath/testing/bpffs.ts';
import { benchPrograms } from './programs.ts';
import type { BenchResult } from './result.ts';

test('bench programs: every path ends where it should, and is measured in both families', {
  skip: kernelSkipReason(),
}, async (t) => {
  const results: BenchResult[] = [];
  await benchPrograms({
    args: ['--rounds', '2', '--repeat', '100', '--prefixes', '300', '--peers', '5'],
    signal: new AbortController().signal,
    emit: (result) => void results.push(result),
    say: () => undefined,
  });
  t.equal(results.length, 22);
  t.ok(results.every(({ value }) => value > 0));
  const programs = new Set(results.map(({ conditions }) => conditions.program));
  t.strictSame([...programs].sort(), [
    'mesh_from_endpoint',
    'mesh_from_overlay',
    'mesh_to_endpoint',
  ]);
});
