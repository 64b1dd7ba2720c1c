import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { createDrainService, type ServeDrain } from './drain-request.ts';
import { type Drains, openDrains } from './drains.ts';

const logger = createLogger('test', { level: 'silent' });
const beta = parseClusterName('beta');

async function openDir(t: Test): Promise<TempDir> {
  const dir = await openTempDir('drains');
  t.teardown(() => dir[Symbol.asyncDispose]());
  return dir;
}

test('a drain is kept over a restart of the agent', async (t) => {
  const dir = await openDir(t);
  const drains = openDrains(dir.path, logger);
  t.same(drains.list(), []);
  t.equal(drains.add(beta, 1000), true);
  t.equal(drains.add(beta, 2000), false);
  const next = openDrains(dir.path, logger);
  t.same(next.list(), [{ cluster: 'beta', since: 1000 }]);
  t.equal(next.remove(beta), true);
  t.equal(next.remove(beta), false);
  t.equal(openDrains(dir.path, logger).has(beta), false);
});

test('a file that cannot be read drains nobody, and is written anew', async (t) => {
  const dir = await openDir(t);
  for (const content of [
    '{',
    '{"schema":2,"drained":[]}',
    '{"schema":1,"drained":[{"cluster":"-"}]}',
  ]) {
    await writeFile(dir.file('drained.json'), content);
    const drains = openDrains(dir.path, logger);
    t.same(drains.list(), []);
    drains.add(beta, 1);
    t.match(JSON.parse(await readFile(dir.file('drained.json'), 'utf8')), { schema: 1 });
  }
});

function makeService(drains: Drains): { serve: ServeDrain; touched: () => number } {
  let touched = 0;
  const serve = createDrainService({
    own: parseClusterName('alpha'),
    drains,
    mesh: {
      lives: () => [
        { name: beta, clusterId: undefined, isStale: false, silentMs: 0, cause: 'peer' },
      ],
    },
    withdrawal: {
      touch: () => {
        touched += 1;
      },
    },
    clock: createManualClock(),
    logger,
  });
  return { serve, touched: () => touched };
}

test('requests are answered with what has changed', async (t) => {
  const dir = await openDir(t);
  const drains = openDrains(dir.path, logger);
  const { serve, touched } = makeService(drains);
  const body = '{"cluster":"beta"}';
  t.match(serve('undrain', body), { status: 200, body: { message: /was not drained/ } });
  t.match(serve('drain', body), { status: 200, body: { message: /beta is drained: new/ } });
  t.equal(drains.has(beta), true);
  t.match(serve('drain', body), { status: 200, body: { message: /was drained before/ } });
  t.match(serve('undrain', body), { status: 200, body: { message: /is used again/ } });
  t.equal(drains.has(beta), false);
  t.equal(touched(), 4);
});

test('what cannot be drained is refused with the reason', async (t) => {
  const dir = await openDir(t);
  const drains = openDrains(dir.path, logger);
  const { serve } = makeService(drains);
  t.match(serve('drain', '{"cluster":"alpha"}'), {
    status: 400,
    body: { error: /it is this agent's own cluster/ },
  });
  t.match(serve('drain', '{"cluster":"gamma"}'), {
    status: 404,
    body: { error: /no such peer, its peers are beta/ },
  });
  for (const body of ['', '{}', '{"cluster":7}', '{"cluster":"UPPER"}']) {
    t.match(serve('drain', body), { status: 400, body: { error: /expected \{"cluster"/ } });
  }
  t.same(drains.list(), []);
});

test('a drain that cannot be kept is not made', async (t) => {
  const dir = await openDir(t);
  const drains = openDrains(dir.path, logger);
  await mkdir(dir.file('drained.json.tmp'));
  const { serve } = makeService(drains);
  t.match(serve('drain', '{"cluster":"beta"}'), {
    status: 500,
    body: { error: /it cannot be kept in --state-dir/ },
  });
  t.equal(drains.has(beta), false);
});

test('a cluster that was removed while drained can be undrained', async (t) => {
  const dir = await openDir(t);
  const drains = openDrains(dir.path, logger);
  drains.add(parseClusterName('gone'), 1);
  const { serve } = makeService(drains);
  t.equal(serve('undrain', '{"cluster":"gone"}').status, 200);
  t.same(drains.list(), []);
});
