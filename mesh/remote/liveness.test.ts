import { test } from 'tap';
import { createManualClock } from '../testing/manual-clock.ts';
import { createLiveness } from './liveness.ts';

const KNOWN = { isKnown: true };

test('silence makes a cluster stale at the time that was set, a sign of life in between does not', async (t) => {
  const clock = createManualClock();
  const liveness = createLiveness({ clock, staleAfterMs: 30_000 });
  t.equal(liveness.untilChangeMs(), 30_000);
  await clock.advance(29_999);
  t.equal(liveness.look(true, KNOWN).kind, 'fresh');
  liveness.sign();
  await clock.advance(29_999);
  t.equal(liveness.look(true, KNOWN).kind, 'fresh');
  t.equal(liveness.untilChangeMs(), 1);
  await clock.advance(1);
  t.same(liveness.look(true, KNOWN), { kind: 'stale', since: 59_999 });
  t.equal(liveness.silentMs(), 30_000);
});

test('coming back takes being whole, and lasting', async (t) => {
  const clock = createManualClock();
  const liveness = createLiveness({ clock, staleAfterMs: 30_000, settleMs: 5000 });
  t.equal(liveness.look(true, KNOWN).kind, 'fresh');
  await clock.advance(40_000);
  t.equal(liveness.look(false, KNOWN).kind, 'stale');
  liveness.sign();
  t.same(liveness.look(false, KNOWN), { kind: 'stale', since: 30_000 }, 'not whole yet');
  await clock.advance(1000);
  t.same(liveness.look(true, KNOWN), { kind: 'returning', since: 30_000, until: 46_000 });
  await clock.advance(3000);
  t.equal(liveness.look(false, KNOWN).kind, 'stale', 'something broke again');
  t.equal(liveness.look(true, KNOWN).kind, 'returning', 'and the waiting begins anew');
  await clock.advance(4999);
  t.equal(liveness.look(true, KNOWN).kind, 'returning');
  await clock.advance(1);
  t.equal(liveness.look(true, KNOWN).kind, 'fresh');
});

test('the first time nothing is waited for', async (t) => {
  const clock = createManualClock();
  const liveness = createLiveness({ clock, staleAfterMs: 30_000 });
  await clock.advance(100_000);
  t.equal(liveness.look(false, { isKnown: false }).kind, 'stale');
  liveness.sign();
  t.equal(liveness.look(true, { isKnown: false }).kind, 'fresh');
});

test('a link that goes up and down must last longer each time, and after a good while little again', async (t) => {
  const clock = createManualClock();
  const liveness = createLiveness({ clock, staleAfterMs: 30_000, settleMs: 5000 });
  liveness.look(true, KNOWN);
  const waits: number[] = [];
  const flap = async (): Promise<void> => {
    await clock.advance(30_000);
    liveness.look(true, KNOWN);
    liveness.sign();
    const life = liveness.look(true, KNOWN);
    t.equal(life.kind, 'returning');
    const wait = life.kind === 'returning' ? life.until - clock.monotonic() : 0;
    waits.push(wait);
    for (let passed = 0; passed < wait; passed += 5000) {
      await clock.advance(5000);
      liveness.sign();
      liveness.look(true, KNOWN);
    }
    t.equal(liveness.look(true, KNOWN).kind, 'fresh');
  };
  for (let round = 0; round < 6; round += 1) await flap();
  t.same(waits, [5000, 10_000, 20_000, 40_000, 60_000, 60_000]);
  for (let passed = 0; passed < 11 * 60_000; passed += 10_000) {
    await clock.advance(10_000);
    liveness.sign();
    liveness.look(true, KNOWN);
  }
  await flap();
  t.equal(waits.at(-1), 5000);
});

test('who knows better can make a cluster stale at once', async (t) => {
  const clock = createManualClock();
  const liveness = createLiveness({ clock, staleAfterMs: 30_000 });
  liveness.look(true, KNOWN);
  await clock.advance(10_000);
  liveness.sign();
  await clock.advance(1000);
  liveness.expire();
  t.same(liveness.look(true, KNOWN), { kind: 'stale', since: 11_000 });
  t.equal(liveness.silentMs(), 1000, 'it is silent since its last sign of life');
});
