import { rename, rm, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { type ManifestProblem, parseFile, watchManifests } from './manifests.ts';
import type { ObjectEvent } from './object-event.ts';
import { objectId } from './objects.ts';

const DEADLINE_MS = 10_000;

/** A watched directory: what exists by its events, and what is wrong in it. */
async function watched(t: Test, files: Readonly<Record<string, string>>) {
  const dir = await openTempDir('manifests');
  t.teardown(() => dir[Symbol.asyncDispose]());
  for (const [name, text] of Object.entries(files)) await writeFile(dir.file(name), text);
  const stopping = new AbortController();
  const objects = new Map<string, string>();
  const events: ObjectEvent['kind'][] = [];
  let problems: readonly ManifestProblem[] = [];
  const following = (async () => {
    const batches = watchManifests(dir.path, {
      signal: stopping.signal,
      rescanMs: 100,
      onProblems: (now) => {
        problems = now;
      },
    });
    for await (const batch of batches) {
      for (const event of batch) {
        events.push(event.kind);
        if (event.kind === 'upsert')
          objects.set(objectId(event.object), JSON.stringify(event.object));
        if (event.kind === 'delete') objects.delete(objectId(event.object));
      }
    }
  })();
  t.teardown(async () => {
    stopping.abort();
    await following;
  });
  const until = async (what: string, condition: () => boolean): Promise<void> => {
    const deadline = systemClock.monotonic() + DEADLINE_MS;
    while (!condition()) {
      if (systemClock.monotonic() > deadline) {
        throw new Error(
          `waited in vain for ${what}: ${[...objects.keys()]}, ${JSON.stringify(problems)}`,
        );
      }
      await systemClock.sleep(5);
    }
  };
  return { dir, objects, events, until, problems: () => problems };
}

const pod = (name: string, ip: string): string => `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: demo, labels: {app: web}}
spec: {nodeName: n1}
status: {podIP: ${ip}, hostIP: 192.0.2.1}
`;

async function replace(dir: TempDir, name: string, text: string): Promise<void> {
  await writeFile(dir.file(`.${name}`), text);
  await rename(dir.file(`.${name}`), dir.file(name));
}

test('watchManifests() tells every object of every document, then that it is synced', async (t) => {
  const list = `kind: List\nitems:\n- {kind: Namespace, metadata: {name: demo}}\n`;
  const rig = await watched(t, {
    'a.yaml': `${pod('web-0', '10.1.0.5')}---\n${pod('web-1', '10.1.0.6')}`,
    'b.yml': list,
    'c.json': '{"kind": "Namespace", "metadata": {"name": "data"}}',
    'notes.txt': 'no manifest',
  });
  await rig.until('synced', () => rig.events.includes('synced'));
  t.same([...rig.objects.keys()].sort(), [
    'Namespace data',
    'Namespace demo',
    'Pod demo/web-0',
    'Pod demo/web-1',
  ]);
  t.same(rig.events, ['upsert', 'upsert', 'upsert', 'upsert', 'synced']);
  t.same(rig.problems(), []);
});

test('watchManifests() deletes the objects of a removed file and of a removed document', async (t) => {
  const rig = await watched(t, {
    'a.yaml': `${pod('web-0', '10.1.0.5')}---\n${pod('web-1', '10.1.0.6')}`,
    'b.yaml': pod('web-2', '10.1.0.7'),
  });
  await rig.until('three pods', () => rig.objects.size === 3);
  await rm(rig.dir.file('b.yaml'));
  await rig.until('web-2 gone', () => !rig.objects.has('Pod demo/web-2'));
  await replace(rig.dir, 'a.yaml', pod('web-1', '10.1.0.6'));
  await rig.until('web-0 gone', () => !rig.objects.has('Pod demo/web-0'));
  t.same([...rig.objects.keys()], ['Pod demo/web-1']);
});

test('watchManifests() keeps the last good version of a bad object, names it, and harms no other', async (t) => {
  const rig = await watched(t, {
    'a.yaml': `${pod('web-0', '10.1.0.5')}---\n${pod('web-1', '10.1.0.6')}`,
  });
  await rig.until('two pods', () => rig.objects.size === 2);
  await replace(rig.dir, 'a.yaml', `${pod('web-0', '10.1.0.500')}---\n${pod('web-1', '10.1.0.8')}`);
  await rig.until(
    'web-1 changed',
    () => rig.objects.get('Pod demo/web-1')?.includes('10.1.0.8') === true,
  );
  t.match(rig.objects.get('Pod demo/web-0'), /"10\.1\.0\.5"/, 'web-0 is as it was');
  t.match(rig.problems(), [
    {
      where: 'a.yaml document 1 (line 1)',
      message: /^Pod demo\/web-0: field status\.podIP: .*10\.1\.0\.500.*last good version stays/,
    },
  ]);
  await replace(rig.dir, 'a.yaml', `${pod('web-0', '10.1.0.9')}---\n${pod('web-1', '10.1.0.8')}`);
  await rig.until(
    'web-0 mended',
    () => rig.objects.get('Pod demo/web-0')?.includes('10.1.0.9') === true,
  );
  t.same(rig.problems(), []);
});

test('watchManifests() keeps what a half-written, emptied or broken file said before', async (t) => {
  const whole = `${pod('web-0', '10.1.0.5')}---\n${pod('web-1', '10.1.0.6')}`;
  const cases: readonly [string, string][] = [
    ['emptied', ''],
    ['cut inside a line', whole.slice(0, -12)],
    ['cut inside the first document', whole.slice(0, 70)],
    ['not YAML', `${pod('web-0', '10.1.0.5')}---\n{{{`],
    ['an alias that leads nowhere', `${pod('web-0', '10.1.0.5')}---\nkind: *nowhere\n`],
  ];
  for (const [what, text] of cases) {
    await t.test(what, async (t) => {
      const rig = await watched(t, { 'a.yaml': whole });
      await rig.until('two pods', () => rig.objects.size === 2);
      await writeFile(rig.dir.file('a.yaml'), text);
      await rig.until('the problem', () => rig.problems().length > 0);
      t.match(rig.problems()[0]?.where, /^a\.yaml/);
      t.equal(rig.objects.size, 2, 'both objects stay');
      await writeFile(rig.dir.file('a.yaml'), whole);
      await rig.until('no problem', () => rig.problems().length === 0);
      t.notOk(rig.events.includes('delete'), 'nothing was ever deleted');
    });
  }
});

test('watchManifests() gives an object in two files to the first, and to the other when that goes', async (t) => {
  const rig = await watched(t, {
    'a.yaml': pod('web-0', '10.1.0.5'),
    'b.yaml': pod('web-0', '10.1.0.6'),
  });
  await rig.until('synced', () => rig.events.includes('synced'));
  t.match(rig.objects.get('Pod demo/web-0'), /10\.1\.0\.5/);
  t.match(rig.problems(), [{ where: 'b.yaml', message: /stands in a\.yaml already/ }]);
  await rm(rig.dir.file('a.yaml'));
  await rig.until(
    'the other',
    () => rig.objects.get('Pod demo/web-0')?.includes('10.1.0.6') === true,
  );
});

test('watchManifests() holds what it has when the whole directory is gone', async (t) => {
  const rig = await watched(t, { 'a.yaml': pod('web-0', '10.1.0.5') });
  await rig.until('one pod', () => rig.objects.size === 1);
  await rename(rig.dir.path, `${rig.dir.path}-away`);
  t.teardown(() => rm(`${rig.dir.path}-away`, { recursive: true, force: true }));
  await systemClock.sleep(300);
  t.equal(rig.objects.size, 1);
  await rename(`${rig.dir.path}-away`, rig.dir.path);
  await replace(rig.dir, 'b.yaml', pod('web-1', '10.1.0.6'));
  await rig.until('the other', () => rig.objects.size === 2);
  t.notOk(rig.events.includes('delete'));
});

test('parseFile() names file, document and field of what cannot be used', async (t) => {
  const cases: readonly [string, RegExp][] = [
    ['kind: Deployment\nmetadata: {name: x}', /kind is "Deployment", which is not published/],
    ['kind: Pod', /^field metadata: /],
    ['kind: Pod\nmetadata: {}', /^field metadata\.name: /],
    [
      'kind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 80, protocol: QUIC}]}',
      /field spec\.ports\[0\]\.protocol/,
    ],
    ['just text', /kind is undefined/],
    ['kind: Pod\nmetadata: {name: UPPER}', /field metadata\.name: expected a lower-case DNS name/],
    [
      'apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}',
      /field apiVersion: "serving\.knative\.dev\/v1" is not published, expected v1/,
    ],
    [
      'kind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 99999}]}',
      /field spec\.ports\[0\]\.port/,
    ],
    [
      'kind: Service\nmetadata: {name: x}\nspec: {clusterIP: ten}',
      /field spec\.clusterIPs\[0\]: .*"ten"/,
    ],
    [
      'kind: Node\nmetadata: {name: x}\nspec: {podCIDRs: [10.0.0.0/99]}',
      /field spec\.podCIDRs\[0\]/,
    ],
    [
      'kind: Node\nmetadata: {name: x}\nstatus: {addresses: [{type: InternalIP, address: n}]}',
      /field status\.addresses\[0\]\.address/,
    ],
    [
      'kind: EndpointSlice\nmetadata: {name: x}\naddressType: IPv4\nendpoints: [{addresses: [x]}]',
      /field endpoints\[0\]\.addresses\[0\]/,
    ],
    ['kind: Namespace\nmetadata: {name: x, labels: {a: 1}}', /field metadata\.labels\.a/],
  ];
  for (const [text, message] of cases) {
    const { problems, objects } = parseFile('x.yaml', text);
    t.equal(objects.size, 0, text);
    t.match(problems, [{ where: 'x.yaml', message }], text);
  }
});

test('parseFile() refuses aliases that would fill the memory', async (t) => {
  const level = (n: number) =>
    `l${n}: &l${n} [${Array(9)
      .fill(`*l${n - 1}`)
      .join(',')}]`;
  const bomb = ['l0: &l0 [x,x,x,x,x,x,x,x,x]', ...[1, 2, 3, 4, 5, 6, 7, 8].map(level)].join('\n');
  const { problems } = parseFile('x.yaml', bomb);
  t.match(problems, [{ where: 'x.yaml', message: /^not YAML: .*alias/i }]);
});
