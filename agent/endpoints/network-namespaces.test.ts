import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { listUnnamedNamespaces, parseNamespaceIds } from './network-namespaces.ts';

test('what is no network namespace, and our own one, are left out', async (t) => {
  await using dir = await openTempDir('netns');
  mkdirSync(dir.file('names'));
  writeFileSync(dir.file('names', 'stale'), '');
  symlinkSync('/proc/self/ns/net', dir.file('names', 'own'));
  mkdirSync(dir.file('proc'));
  mkdirSync(dir.file('proc', '1', 'ns'), { recursive: true });
  symlinkSync('/proc/self/ns/net', dir.file('proc', '1', 'ns', 'net'));
  mkdirSync(dir.file('proc', 'sys'));
  mkdirSync(dir.file('proc', '2'));
  t.same(
    listUnnamedNamespaces({
      named: dir.file('named'),
      folders: [dir.file('names'), dir.file('nowhere')],
      processes: dir.file('proc'),
    }),
    [],
  );
});

const CASES: readonly (readonly [name: string, text: string, expected: unknown])[] = [
  ['nothing', '', []],
  ['no list', '{}', []],
  // As iproute2 6.1 prints it.
  [
    'named ones and one without a name',
    '[{"nsid":0,"name":"cni-1f"},{"nsid":1},{"nsid":2,"name":"b"}]\n',
    [
      { nsid: 0, name: 'cni-1f' },
      { nsid: 2, name: 'b' },
    ],
  ],
  ['what is none', '[1,null,{"nsid":"0","name":"a"},{"name":"a"}]', []],
];

for (const [name, text, expected] of CASES) {
  test(`parseNamespaceIds(): ${name}`, async (t) => {
    t.same(parseNamespaceIds(text), expected);
  });
}
