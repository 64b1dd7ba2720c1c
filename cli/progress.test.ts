import { test } from 'tap';
import { until } from '../mesh/remote/testing/until.ts';
import { beginProgress } from './progress.ts';

test('beginProgress() says on a terminal what takes long, and takes it away again', async (t) => {
  let said = '';
  const say = (text: string): void => {
    said += text;
  };
  const progress = beginProgress('asking n1', { say, isWatched: true });
  t.equal(said, '', 'nothing for what is over at once');
  await until('it is told', () => said.includes('asking n1'));
  t.ok(said.startsWith('\r\u001b[K'), 'in place of what stood there');
  t.match(said, /asking n1 \(\d+ s\)/);
  progress.tell('asking n2');
  await until('the next thing is told', () => said.includes('asking n2'));
  progress[Symbol.dispose]();
  t.ok(said.endsWith('\r\u001b[K'), 'the line is empty');
  const before = said;
  progress[Symbol.dispose]();
  t.equal(said, before, 'twice is harmless');
});

test('beginProgress() says nothing where nobody watches', async (t) => {
  const said: string[] = [];
  const progress = beginProgress('x', { say: (text) => said.push(text), isWatched: false });
  progress.tell('y');
  progress[Symbol.dispose]();
  t.same(said, []);
});
