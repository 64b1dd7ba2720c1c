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

test('parseFile() says on which lines the rules of a policy stand', async (t) => {
  const text = `# two documents and a list
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: a, namespace: demo}
spec:
  endpointSelector: {}
  ingress:
    - fromEntities: [host]

    # another
    - toPorts: []
  egressDeny: [{}, {}]
---
kind: List
items:
  - kind: Pod
    metadata: {name: p, namespace: demo}
  - kind: CiliumClusterwideNetworkPolicy
    metadata: {name: b}
    specs:
      - endpointSelector: {}
        egress: [{}]
      - ingressDeny:
          - {}
  - kind: CiliumCIDRGroup
    metadata: {name: g}
    spec:
      externalCIDRs: [192.0.2.0/24]
`;
  const { objects, problems } = parseFile('x.yaml', text);
  t.same(problems, []);
  const linesOf = (id: string) => {
    const object = objects.get(id);
    return object !== undefined && 'origin' in object ? object.origin : undefined;
  };
  t.same(linesOf('CiliumNetworkPolicy demo/a'), {
    file: 'x.yaml',
    lines: {
      '': 2,
      spec: 6,
      'spec.ingress[0]': 8,
      'spec.ingress[1]': 11,
      'spec.egressDeny[0]': 12,
      'spec.egressDeny[1]': 12,
    },
  });
  t.same(linesOf('CiliumClusterwideNetworkPolicy /b'), {
    file: 'x.yaml',
    lines: {
      '': 18,
      'specs[0]': 21,
      'specs[0].egress[0]': 22,
      'specs[1]': 23,
      'specs[1].ingressDeny[0]': 24,
    },
  });
  t.same(linesOf('CiliumCIDRGroup /g'), { file: 'x.yaml', lines: { '': 25, spec: 28 } });
  t.equal(linesOf('Pod demo/p'), undefined);
});

test('parseFile() bounds the lines that it tells, and reads JSON and aliases', async (t) => {
  const many = `kind: NetworkPolicy
metadata: {name: a}
spec:
  podSelector: {}
  ingress:
${'    - {}\n'.repeat(5_000)}`;
  const originOf = (text: string) => {
    const [object] = parseFile('x.yaml', text).objects.values();
    return object !== undefined && 'origin' in object ? object.origin?.lines : undefined;
  };
  t.equal(Object.keys(originOf(many) ?? {}).length, 2_000);
  const json = '{"kind":"NetworkPolicy",\n"metadata":{"name":"a"},\n"spec":{"ingress":[\n{}]}}';
  t.same(originOf(json), { '': 1, spec: 3, 'spec.ingress[0]': 4 });
  const alias = `kind: CiliumNetworkPolicy
metadata: {name: a}
spec: &spec
  endpointSelector: {}
  ingress: [{}]
specs: [*spec]
`;
  t.same(originOf(alias), { '': 1, spec: 4, 'spec.ingress[0]': 5, 'specs[0]': 6 });
});

test('a policy that moves within its file is told again, with its new line', async (t) => {
  const policy = 'kind: NetworkPolicy\nmetadata: {name: a, namespace: demo}\nspec: {}\n';
  const rig = await watched(t, { 'a.yaml': policy });
  await rig.until('the policy', () => rig.objects.size === 1);
  t.match(
    rig.objects.get('NetworkPolicy demo/a'),
    '"origin":{"file":"a.yaml","lines":{"":1,"spec":3}}',
  );
  await replace(rig.dir, 'a.yaml', `# moved\n${policy}`);
  await rig.until('its new line', () =>
    (rig.objects.get('NetworkPolicy demo/a') ?? '').includes('{"":2,"spec":4}'),
  );
});

test('a policy without a namespace keeps its last good version, as others do', async (t) => {
  for (const kind of ['CiliumCIDRGroup', 'CiliumClusterwideNetworkPolicy']) {
    const good = `kind: ${kind}\nmetadata: {name: g}\nspec: {}\n`;
    const previous = parseFile('x.yaml', good);
    const bad = `kind: ${kind}\nmetadata: {name: g, generation: -1}\nspec: {}\n`;
    const { objects, problems } = parseFile('x.yaml', bad, { previous });
    t.same([...objects.keys()], [`${kind} /g`]);
    t.match(problems, [{ message: /its last good version stays in force$/ }]);
  }
});

test('a policy that no agent would take for its depth keeps its last good version, and says so', async (t) => {
  const policy = (depth: number) =>
    `kind: NetworkPolicy\nmetadata: {name: a}\nspec: {a: ${'['.repeat(depth)}${']'.repeat(depth)}}\n`;
  const previous = parseFile('x.yaml', policy(99));
  t.same(previous.problems, []);
  const { objects, problems } = parseFile('x.yaml', policy(100), { previous });
  t.same([...objects.values()], [...previous.objects.values()]);
  t.match(problems, [
    { message: /more than 100 levels of objects and lists: no agent would take it; its last good/ },
  ]);
  t.match(parseFile('x.yaml', policy(20_000)).problems, [{ message: /^not YAML: / }]);
});
