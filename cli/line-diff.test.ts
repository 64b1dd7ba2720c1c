import { test } from 'tap';
import { diffLines } from './line-diff.ts';

test('diffLines() shows what differs with what is around it', (t) => {
  const cases: readonly [string, string, string[]][] = [
    ['', '', []],
    ['a\nb\n', 'a\nb\n', []],
    ['', 'a\n', ['+ a']],
    ['a\n', '', ['- a']],
    ['a\nb\nc\n', 'a\nx\nc\n', ['  a', '- b', '+ x', '  c']],
    ['1\n2\n3\n4\n5\n6\n', '1\n2\n3\n4\n5\n7\n', ['  4', '  5', '- 6', '+ 7']],
    ['a\nb', 'b\nc', ['- a', '  b', '+ c']],
  ];
  for (const [before, after, expected] of cases) {
    t.same(diffLines(before, after).sort(), expected.sort(), JSON.stringify([before, after]));
  }
  t.end();
});
