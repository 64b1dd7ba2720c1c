import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { addRequest } from '../testing/node-rig.ts';
import { openedName, openOpenedPods } from './opened-pods.ts';

test('word of pods is read whole, and what cannot be used is told', async (t) => {
  await using dir = await openTempDir('opened');
  const opened = openOpenedPods(dir.file('agent.sock'));
  t.same(opened.list(), [], 'without a folder there is nothing');
  opened.forget('c1:eth0');
  const folder = dir.file('agent.sock.opened');
  mkdirSync(folder);
  const whole = JSON.stringify(addRequest('c1', '10.1.0.5'));
  const files: Record<string, string> = {
    'c1:eth0': whole,
    '.c2:eth0': whole.slice(0, 40),
    'c3:eth0': whole.slice(0, 40),
    'c4:eth0': whole,
    'c5:eth0': JSON.stringify(addRequest('c5', '10.1.0.5', 'DEL')),
  };
  for (const [name, content] of Object.entries(files)) writeFileSync(`${folder}/${name}`, content);
  const list = opened.list();
  t.same(list.map(({ name }) => name).sort(), ['c1:eth0', 'c3:eth0', 'c4:eth0', 'c5:eth0']);
  const problemOf = (name: string) => list.find((pod) => pod.name === name)?.problem;
  t.match(list.find(({ name }) => name === 'c1:eth0')?.request, {
    command: 'ADD',
    containerId: 'c1',
    ifName: 'eth0',
  });
  t.match(problemOf('c3:eth0'), /cannot use .*c3:eth0: .*not JSON; remove it/);
  t.match(problemOf('c4:eth0'), /it holds ADD of c1/);
  t.match(problemOf('c5:eth0'), /it holds DEL of c5/);
  opened.forget(openedName('c1', 'eth0'));
  t.notOk(readdirSync(folder).includes('c1:eth0'));
});

test('a folder that cannot be read is a problem, and no crash', async (t) => {
  await using dir = await openTempDir('opened');
  writeFileSync(dir.file('agent.sock.opened'), '');
  t.match(openOpenedPods(dir.file('agent.sock')).list(), [
    { request: undefined, problem: /cannot read .*agent\.sock\.opened/ },
  ]);
});
