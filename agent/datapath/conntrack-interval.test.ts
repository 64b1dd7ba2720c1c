import { test } from 'tap';
import { nextInterval } from './conntrack-interval.ts';

const use = (entries: number, deleted: number, left = 0) => ({
  map: 'mesh_ct',
  entries,
  deleted,
  left,
  maxEntries: 1000,
});

test('nextInterval() follows what the rounds find', async (t) => {
  t.equal(nextInterval({ uses: [], busyMs: 0 }, undefined), 15_000, 'at first');
  const idle = { uses: [use(100, 0)], busyMs: 1 };
  t.equal(nextInterval(idle, 15_000), 22_500, 'nothing to do: later');
  t.equal(nextInterval(idle, 290_000), 300_000, 'but not for ever');
  t.equal(nextInterval({ uses: [use(100, 10)], busyMs: 1 }, 60_000), 60_000, 'some: as before');
  t.equal(nextInterval({ uses: [use(100, 80)], busyMs: 1 }, 60_000), 30_000, 'much: sooner');
  t.equal(nextInterval({ uses: [use(100, 80)], busyMs: 1 }, 16_000), 15_000, 'but not at once');
  t.equal(nextInterval({ uses: [use(850, 1)], busyMs: 1 }, 300_000), 15_000, 'nearly full');
  t.equal(nextInterval({ uses: [use(100, 9, 1)], busyMs: 1 }, 300_000), 15_000, 'left undone');
  t.equal(
    nextInterval({ uses: [use(990, 0)], busyMs: 1 }, 60_000),
    90_000,
    'a full map without anything expired is not helped by haste',
  );
});

test('nextInterval() takes at most a hundredth of a CPU', async (t) => {
  t.equal(nextInterval({ uses: [use(850, 100, 50)], busyMs: 250 }, 15_000), 25_000);
  t.equal(
    nextInterval({ uses: [use(100, 0)], busyMs: 5000 }, 300_000),
    500_000,
    'whatever it costs',
  );
});
