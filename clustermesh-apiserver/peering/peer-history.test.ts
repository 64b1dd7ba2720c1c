import { test } from 'tap';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { createPeerHistory, PEER_HISTORY_PREFIX } from './peer-history.ts';

const { signal } = new AbortController();
const BETA = parseClusterName('beta');
const by = 'admin-alpha';

test('createPeerHistory()', async (t) => {
  const clock = createManualClock();
  const store = createMemoryStore();
  const history = createPeerHistory({ store, clock });
  const summary = async (): Promise<string[]> =>
    (await history.of(BETA, signal)).map(
      ({ revision, outcome, before, by }) => `${revision} ${outcome} from "${before}" by ${by}`,
    );

  await t.test('the latest is first', async (t) => {
    t.same(await summary(), []);
    t.equal(await history.note(BETA, { outcome: 'created', by, before: '' }, signal), 1);
    t.equal(await history.note(BETA, { outcome: 'changed', by, before: 'x' }, signal), 2);
    t.same(await summary(), [`2 changed from "x" by ${by}`, `1 created from "" by ${by}`]);
  });

  await t.test('what was noted and not made is noted once', async (t) => {
    t.equal(await history.note(BETA, { outcome: 'changed', by, before: 'x' }, signal), 2);
    t.equal(
      await history.note(BETA, { outcome: 'changed', by: 'admin-b', before: 'x' }, signal),
      3,
    );
    t.equal((await summary()).length, 3);
  });

  await t.test('two at once lose nothing', async (t) => {
    const numbers = await Promise.all(
      ['y', 'z'].map((before) => history.note(BETA, { outcome: 'changed', by, before }, signal)),
    );
    t.same(numbers.sort(), [4, 5]);
    t.equal((await summary()).length, 5);
  });

  await t.test('ten are kept', async (t) => {
    for (let n = 0; n < 12; n += 1) {
      await history.note(BETA, { outcome: 'changed', by, before: `state ${n}` }, signal);
    }
    const kept = await summary();
    t.equal(kept.length, 10);
    t.match(kept[0], /^17 changed from "state 11"/);
  });

  await t.test('a record of a later version cannot be undone, and is no obstacle', async (t) => {
    await store.put(PEER_HISTORY_PREFIX + BETA, '{"schema":2}', { signal });
    t.same(await summary(), []);
    t.equal(await history.note(BETA, { outcome: 'deleted', by, before: 'x' }, signal), 1);
  });
});
