import { test } from 'tap';
import { kernelSkipReason } from '../agent/datapath/testing/bpffs.ts';
import { median } from './result.ts';
import { measureServicesLoad } from './services-load.ts';

const skip = kernelSkipReason();

test('bench services-load: the maps hold what was written', { skip }, async (t) => {
  const sizes = { services: 500, backends: 2000, maglev: 5, changes: 20, warmup: 5 };
  const times = await measureServicesLoad(sizes);
  t.ok(times.load > 0 && times.longestCall <= times.load);
  t.ok(times.adopt > 0 && times.longestAdopt <= times.adopt);
  t.equal(times.changes.length, 20);
});

if (process.env.ISTHMUS_LONG === 'true') {
  test('30,000 services with 100,000 backends load in 10 s, one change in 10 ms', {
    skip,
    timeout: 300_000,
  }, async (t) => {
    const sizes = { services: 30_000, backends: 100_000, maglev: 100, changes: 200, warmup: 50 };
    const { load, adopt, changes } = await measureServicesLoad(sizes);
    t.comment(`load ${load.toFixed(0)} ms, taken over in ${adopt.toFixed(0)} ms`);
    t.comment(`one change ${median(changes).toFixed(3)} ms`);
    t.ok(load < 10_000);
    t.ok(median(changes) < 10);
  });
}
