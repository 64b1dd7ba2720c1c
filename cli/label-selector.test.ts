import { test } from 'tap';
import { parseLabelSelector } from './label-selector.ts';

const LABELS = { app: 'web', tier: 'front', empty: '' };

test('parseLabelSelector() reads what kubectl takes', async (t) => {
  const cases: readonly [string, boolean][] = [
    ['app=web', true],
    ['app==web', true],
    ['app=db', false],
    ['app!=db', true],
    ['app!=web', false],
    ['missing!=x', true],
    ['missing=', false],
    ['empty=', true],
    ['app', true],
    ['missing', false],
    ['!missing', true],
    ['!app', false],
    ['app in (db, web)', true],
    ['app in (db)', false],
    ['app notin (db,x)', true],
    ['missing notin (a)', true],
    ['app=web,tier=front', true],
    ['app=web,tier=back', false],
    ['app in (web,db),!missing', true],
  ];
  for (const [text, expected] of cases) t.equal(parseLabelSelector(text)(LABELS), expected, text);
});

test('parseLabelSelector() refuses what it does not understand', async (t) => {
  for (const text of ['', 'a=b=c', 'a=(', 'a>1', 'app in web', ',', '!']) {
    t.throws(() => parseLabelSelector(text), { code: 'commander.invalidArgument' }, text);
  }
});
