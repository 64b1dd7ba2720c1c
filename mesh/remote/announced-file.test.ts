import { readFile, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { createLogger } from '../runtime/log.ts';
import { openTempDir } from '../testing/temp-dir.ts';
import { parseClusterName } from '../wire/ids.ts';
import { parseIpPrefix } from '../wire/ip.ts';
import { createAnnounced } from './announced.ts';
import { ANNOUNCED_FILE, openAnnouncedFile, parseContent } from './announced-file.ts';

const BETA = parseClusterName('beta');
const logger = createLogger('test', { level: 'silent' });

function open(folder: string) {
  const announced = createAnnounced({ own: parseClusterName('alpha'), mode: 'learn' });
  const file = openAnnouncedFile(folder, { announced, clock: systemClock, logger });
  return { announced, file };
}

/** Runs it once: what was learned is written at the end. */
async function runOnce(
  t: Test,
  folder: string,
  act: (rig: ReturnType<typeof open>) => void,
): Promise<void> {
  const rig = open(folder);
  const ending = new AbortController();
  const running = rig.file.run(ending.signal);
  act(rig);
  ending.abort();
  await running;
  t.equal(rig.file.problem, undefined);
}

test('what was learned is known after a restart, and what a person wrote stays', async (t) => {
  await using dir = await openTempDir('announced');
  const path = dir.file(ANNOUNCED_FILE);
  const folder = path.slice(0, path.lastIndexOf('/'));
  const allowed = { pods: ['10.7.0.0/16'], nodes: ['192.0.2.0/24'] };
  await writeFile(path, JSON.stringify({ schema: 1, clusters: { gamma: { allowed } } }));
  await runOnce(t, folder, ({ announced }) =>
    announced.restore(BETA, [parseIpPrefix('10.2.0.0/24')]),
  );
  const content = JSON.parse(await readFile(path, 'utf8'));
  t.same(content.clusters.beta, { learned: ['10.2.0.0/24'] });
  t.match(content.clusters.gamma.allowed, allowed);
  const { announced } = open(folder);
  const other = parseClusterName('delta');
  t.equal(announced.judge(other, parseIpPrefix('10.2.0.4/32'))?.reason, 'address-foreign');
  t.equal(announced.judge(other, parseIpPrefix('10.7.0.4/32'))?.reason, 'address-foreign');
  t.equal(
    announced.judge(parseClusterName('gamma'), parseIpPrefix('10.2.9.4/32'))?.reason,
    'address-not-listed',
  );
});

test('a file that cannot be read is said, and left for its writer to mend', async (t) => {
  await using dir = await openTempDir('announced');
  const path = dir.file(ANNOUNCED_FILE);
  const text = '{"schema":1,"clusters":{"beta":{"allowed":{"pods":["10.2.0.0/99"]}}}}';
  await writeFile(path, text);
  const { announced, file } = open(path.slice(0, path.lastIndexOf('/')));
  t.match(file.problem, /clusters\.beta\.allowed\.pods\[0\].*10\.2\.0\.0\/99/);
  const ending = new AbortController();
  const running = file.run(ending.signal);
  announced.restore(BETA, [parseIpPrefix('10.2.0.0/24')]);
  ending.abort();
  await running;
  t.equal(await readFile(path, 'utf8'), text);
});

test('parseContent() names what is wrong', async (t) => {
  const cases: readonly [text: string, message: RegExp][] = [
    ['[]', /the file: expected an object/],
    ['{"schema":9}', /schema 9, expected 1/],
    ['{"schema":1,"clusters":[]}', /clusters: expected an object/],
    ['{"schema":1,"clusters":{"Beta!":{}}}', /Beta!/],
    [
      '{"schema":1,"clusters":{"beta":{"allowed":{"pod":[]}}}}',
      /allowed\.pod: unknown, expected pods/,
    ],
    ['{"schema":1,"clusters":{"beta":{"learned":"x"}}}', /learned: expected a list of networks/],
  ];
  for (const [text, message] of cases) t.throws(() => parseContent(text), { message }, text);
});
