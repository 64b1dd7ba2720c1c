import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'tap';
import { type ManifestProblem, type ObjectEvent, parseFile, watchManifests } from './manifests.ts';
import { objectId } from './objects.ts';

const POD = (name: string, extra = ''): string => `kind: Pod
metadata: {name: ${name}, namespace: demo}
status: {podIP: 10.1.0.5}
${extra}`;

const BAD: readonly { readonly name: string; readonly yaml: string; readonly problem: RegExp }[] = [
  {
    name: 'an address that is none',
    yaml: 'kind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.1.0}\n',
    problem: /Pod default\/a: field status\.podIP: .*10\.1\.0/,
  },
  {
    name: 'a port out of range',
    yaml: 'kind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 70000}]}\n',
    problem: /field spec\.ports\[0\]\.port/,
  },
  { name: 'a missing name', yaml: 'kind: Pod\nmetadata: {}\n', problem: /field metadata\.name/ },
  {
    name: 'an unknown protocol',
    yaml: 'kind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, protocol: QUIC}]}\n',
    problem: /field spec\.ports\[0\]\.protocol/,
  },
  {
    name: 'a kind that is not published',
    yaml: 'kind: Deployment\nmetadata: {name: a}\n',
    problem: /kind is "Deployment"/,
  },
  { name: 'text that is not YAML', yaml: 'kind: [Pod\n', problem: /not YAML/ },
  { name: 'a document that is no object', yaml: 'just text\n', problem: /kind is undefined/ },
  {
    name: 'an alias bomb',
    yaml: `a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n`,
    problem: /alias|kind is undefined/i,
  },
];

for (const { name, yaml, problem } of BAD) {
  test(`parseFile(): ${name} is told with file and field, and harms nothing else`, async (t) => {
    const file = parseFile('web.yaml', `${POD('good')}---\n${yaml}`);
    t.same([...file.objects.keys()].slice(0, 1), ['Pod demo/good']);
    t.equal(file.problems.length, 1);
    t.match(file.problems[0]?.where, /^web\.yaml document 2 \(line \d+\)$/);
    t.match(file.problems[0]?.message, problem);
  });
}

test('parseFile() keeps the last good version of an object that is broken now', async (t) => {
  const good = parseFile('web.yaml', POD('a'));
  const bad = parseFile('web.yaml', POD('a').replace('10.1.0.5', '10.1'), good);
  t.same([...bad.objects.values()], [...good.objects.values()]);
  t.match(bad.problems[0]?.message, /its last good version stays in force/);
});

test('parseFile() reads lists, and several documents', async (t) => {
  const list = JSON.stringify({
    kind: 'List',
    items: [{ kind: 'Namespace', metadata: { name: 'x' } }],
  });
  t.same([...parseFile('a.json', list).objects.keys()], ['Namespace x']);
  t.equal(parseFile('empty.yaml', '').problems.length, 0);
});

test('watchManifests() tells what changed, and that the beginning is complete', async (t) => {
  const directory = t.testdir({ 'a.yaml': POD('a') });
  const ending = new AbortController();
  let problems: readonly ManifestProblem[] = [];
  const batches = watchManifests(directory, {
    signal: ending.signal,
    rescanMs: 200,
    onProblems: (found) => {
      problems = found;
    },
  })[Symbol.asyncIterator]();
  t.teardown(async () => {
    ending.abort();
    await batches.return?.(undefined);
  });
  const next = async (): Promise<string[]> => {
    const { value } = await batches.next();
    return ((value ?? []) as readonly ObjectEvent[]).map((event) =>
      event.kind === 'synced' ? 'synced' : `${event.kind} ${objectId(event.object)}`,
    );
  };
  t.same(await next(), ['upsert Pod demo/a', 'synced']);
  await writeFile(join(directory, 'b.yaml'), POD('b'));
  t.same(await next(), ['upsert Pod demo/b']);
  await writeFile(join(directory, 'a.yaml'), 'kind: [Pod');
  await writeFile(join(directory, 'c.yaml'), POD('c'));
  t.same(await next(), ['upsert Pod demo/c'], 'a half-written file withdraws nothing');
  t.equal(problems.length, 1);
  t.match(problems[0], { where: 'a.yaml' });
  await rm(join(directory, 'a.yaml'));
  t.same(await next(), ['delete Pod demo/a'], 'a removed file does');
});

test('of two files with one object the first in order of names wins', async (t) => {
  const directory = t.testdir({
    'b.yaml': POD('a', 'spec: {nodeName: second}'),
    'a.yaml': POD('a', 'spec: {nodeName: first}'),
  });
  const ending = new AbortController();
  let problems: readonly ManifestProblem[] = [];
  for await (const batch of watchManifests(directory, {
    signal: ending.signal,
    onProblems: (found) => {
      problems = found;
    },
  })) {
    const [event] = batch;
    t.equal(
      event?.kind === 'upsert' && event.object.kind === 'Pod' && event.object.nodeName,
      'first',
    );
    break;
  }
  ending.abort();
  t.match(problems[0]?.message, /stands in a\.yaml already/);
});
