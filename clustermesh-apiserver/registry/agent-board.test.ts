import { test } from 'tap';
import { createMemoryStore, type MemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { encodeAgentReport } from '../../mesh/wire/agent-report.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { AGENT_REPORTS_PREFIX, createAgentBoard } from './agent-board.ts';

const logger = createLogger('test', { level: 'silent' });

/** The board of one replica. */
function openBoard(base: MemoryStore) {
  const elsewhere = new Set<string>();
  const store = base.connect();
  const board = createAgentBoard({
    store,
    isHere: (agent) => !elsewhere.has(agent),
    clock: systemClock,
    logger,
  });
  const stopping = new AbortController();
  const running = board.run(stopping.signal);
  return {
    board,
    store,
    elsewhere,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await running;
    },
  };
}

function reportOf(name: string, ready = true, endpoints = 1): string {
  return encodeAgentReport({
    schema: 1,
    kind: 'node',
    name,
    version: '1',
    startedAt: 0,
    ready,
    missing: ready ? [] : ['it is being started'],
    notes: [],
    clusters: [],
    clustersLeftOut: 0,
    policies: { count: 0, errors: [] },
    pressure: [],
    kernel: [],
    endpoints,
    routingMode: 'tunnel',
  });
}

test('every replica knows what agents say at any of them, until they leave', async (t) => {
  const base = createMemoryStore();
  await using one = openBoard(base);
  await using two = openBoard(base);
  const first = one.board.open('n1');
  t.equal(first.take(reportOf('n1', false)), true);
  t.equal(two.board.open('machine/m1').take(reportOf('m1')), true);
  for (const { board } of [one, two]) {
    await eventually('both are known', () => board.reports.size === 2);
    t.equal(board.reports.get('n1'), reportOf('n1', false));
    t.equal(board.reports.get('machine/m1'), reportOf('m1'));
  }
  t.equal(first.take('{"schema":1}'), false, 'what cannot be read changes nothing');
  first.take(reportOf('n1', true));
  await eventually('the change is known', () => two.board.reports.get('n1') === reportOf('n1'));

  const again = one.board.open('n1');
  t.equal(
    one.board.reports.get('n1'),
    reportOf('n1'),
    'the earlier session counts until the next word',
  );
  t.equal(first.take(reportOf('n1', false)), false, 'but says nothing more');
  t.equal(again.take(reportOf('n1', true, 7)), true);

  one.elsewhere.add('n1');
  await eventually('it is forgotten', () => two.board.reports.size === 1);
  t.equal(one.board.reports.get('n1'), undefined);
});

test('numbers alone are not written for each other: with thousands of agents each write counts', async (t) => {
  const base = createMemoryStore();
  await using one = openBoard(base);
  const session = one.board.open('n1');
  session.take(reportOf('n1', true, 1));
  const written = async (): Promise<string[]> =>
    (await one.store.list(AGENT_REPORTS_PREFIX)).pairs.map(({ value }) => value.toString());
  await eventually('it is written', async () => (await written()).length === 1);
  session.take(reportOf('n1', true, 2));
  session.take(reportOf('n2', true, 2));
  one.board.open('n3').take(reportOf('n3'));
  await eventually('another is written', async () => (await written()).length === 2);
  t.ok((await written()).includes(reportOf('n1', true, 1)), 'the number of before stays');
  t.equal(one.board.reports.get('n1'), reportOf('n2', true, 2), 'and here the newest is known');
});

test('what is taken away from etcd is written again', async (t) => {
  const base = createMemoryStore();
  await using one = openBoard(base);
  one.board.open('n1').take(reportOf('n1'));
  const keys = async (): Promise<string[]> =>
    (await one.store.list(AGENT_REPORTS_PREFIX)).pairs.map(({ key }) => key);
  await eventually('it is written', async () => (await keys()).length === 1);
  const [key = ''] = await keys();
  await one.store.delete(key);
  await eventually('it is back', async () => (await keys()).length === 1);
  t.same(await keys(), [key]);
});
