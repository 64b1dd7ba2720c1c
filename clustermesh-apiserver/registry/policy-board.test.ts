import { test } from 'tap';
import { createMemoryStore, type MemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { createPolicyBoard, POLICY_STANDINGS_PREFIX } from './policy-board.ts';
import type { NodePolicyReport, PolicyNews } from './policy-report.ts';

const logger = createLogger('test', { level: 'silent' });
const WEB = 'CiliumNetworkPolicy demo/web';
const BASE = 'CiliumClusterwideNetworkPolicy base';

/** The board of one replica. */
function openBoard(base: MemoryStore) {
  const elsewhere = new Set<string>();
  const board = createPolicyBoard({
    store: base.connect(),
    isHere: (node) => !elsewhere.has(node),
    clock: systemClock,
    logger,
  });
  const stopping = new AbortController();
  const running = board.run(stopping.signal);
  return {
    ...board,
    get report() {
      return board.report;
    },
    elsewhere,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await running;
    },
  };
}

function news(policies: Record<string, Partial<NodePolicyReport>>, complete = true): PolicyNews {
  const reports = Object.entries(policies).map(([policy, changes]) => ({
    policy,
    generation: 1,
    endpoints: 1,
    entries: 5,
    lastError: '',
    problems: [],
    ...changes,
  }));
  return { reports, gone: [], complete };
}

test('every replica knows what nodes say at any of them, until they leave', async (t) => {
  const base = createMemoryStore();
  await using one = openBoard(base);
  await using two = openBoard(base);
  const changed: string[] = [];
  t.teardown(two.onChange((policy) => void changed.push(policy)));
  one.open('n1').take(news({ [WEB]: {}, [BASE]: { endpoints: 3 } }));
  const session = two.open('n2');
  session.take(news({ [WEB]: { problems: ['spec.ingress[0]: no'] } }));
  const both = { nodes: 2, endpoints: 2, entries: 10, problems: ['spec.ingress[0]: no'] };
  await eventually('both know', () => one.get(WEB)?.nodes === 2 && two.get(WEB)?.nodes === 2);
  t.match(one.get(WEB), both);
  t.match(two.get(WEB), both);
  t.match(two.get(BASE), { nodes: 1, endpoints: 3 });
  t.same(
    one.report.map(({ policy }) => policy),
    [BASE, WEB],
  );
  t.ok(changed.includes(WEB) && changed.includes(BASE));

  session.take({ reports: [], gone: [WEB], complete: false });
  await eventually('it is gone at n2', () => one.get(WEB)?.nodes === 1);
  one.elsewhere.add('n1');
  await eventually('n1 has left', () => two.get(WEB) === undefined);
  t.same([one.report, two.report], [[], []]);
  t.equal((await base.list(POLICY_STANDINGS_PREFIX)).pairs.length, 0);
});

test('a session that begins anew takes nothing away until it has said everything', async (t) => {
  const base = createMemoryStore();
  await using one = openBoard(base);
  const older = one.open('n1');
  older.take(news({ [WEB]: {}, [BASE]: {} }));
  await eventually('it is known', () => one.report.length === 2);
  const newer = one.open('n1');
  older.take({ reports: [], gone: [WEB, BASE], complete: false });
  newer.take(news({ [WEB]: { generation: 2 } }, false));
  await systemClock.sleep(2_500);
  t.match(one.get(WEB), { generation: 1 }, 'the older session counts no more');
  t.equal(one.report.length, 2);
  newer.take({ reports: [], gone: [], complete: true });
  await eventually('it has said everything', () => one.get(WEB)?.generation === 2);
  await eventually('the other is gone', () => one.get(BASE) === undefined);
});

test('what a dead registry said goes with its lease, what a living one says is kept', async (t) => {
  const base = createMemoryStore();
  await using one = openBoard(base);
  const dead = {
    schema: 1,
    ...{ policy: BASE, generation: 1, nodes: 3, behind: 0, selecting: 1, endpoints: 1, entries: 1 },
    ...{ problems: [], errors: [] },
  };
  await base.put(`${POLICY_STANDINGS_PREFIX}dead/base`, JSON.stringify(dead));
  await base.put(`${POLICY_STANDINGS_PREFIX}newer/base`, '{"schema":2}');
  one.open('n1').take(news({ [WEB]: {} }));
  await eventually('both are known', () => one.report.length === 2);
  await base.delete(`${POLICY_STANDINGS_PREFIX}dead/base`);
  await eventually('it is gone', () => one.get(BASE) === undefined);
  await base.delete(`${POLICY_STANDINGS_PREFIX}newer/base`);

  const find = async () => (await base.list(POLICY_STANDINGS_PREFIX)).pairs[0];
  const before = await find();
  one.open('n1').take(news({ [WEB]: {} }));
  await systemClock.sleep(2_500);
  t.equal((await find())?.modRevision, before?.modRevision, 'the same is not written again');
  await base.delete(before?.key ?? '');
  await eventually('it is there again', async () => (await find()) !== undefined);
});
