import { test } from 'tap';
import { parseScrape } from '../testing/scrape-text.ts';
import { createMetrics } from './metrics.ts';

test('pulled families are told anew at each scrape', async (t) => {
  const metrics = createMetrics();
  const gauge = metrics.gauge('isthmus_a', { help: 'A', labels: ['peer'] });
  const counter = metrics.counter('isthmus_b_total', { help: 'B' });
  const peers = new Map([
    ['beta', 1],
    ['ga"m\\ma\n', 2.5],
  ]);
  metrics.onCollect(() => {
    for (const [peer, value] of peers) gauge.set(value, { peer });
    counter.set(7, {});
  });
  const first = parseScrape(await metrics.text());
  t.equal(first.value('isthmus_a', { peer: 'beta' }), 1);
  t.equal(first.value('isthmus_a', { peer: 'ga"m\\ma\n' }), 2.5, 'odd values are escaped');
  t.equal(first.value('isthmus_b_total'), 7);
  t.match(Object.fromEntries(first.types), { isthmus_a: 'gauge', isthmus_b_total: 'counter' });
  peers.delete('beta');
  const second = parseScrape(await metrics.text());
  t.equal(second.value('isthmus_a', { peer: 'beta' }), undefined, 'a peer that left has no series');
  t.equal(second.value('isthmus_b_total'), 7);
});

test('two scrapes at a time do not mix', async (t) => {
  const metrics = createMetrics();
  const gauge = metrics.gauge('isthmus_a', { help: 'A' });
  let scrapes = 0;
  metrics.onCollect(() => {
    scrapes += 1;
    gauge.set(scrapes, {});
  });
  const texts = await Promise.all([metrics.text(), metrics.text()]);
  t.same(
    texts.map((text) => parseScrape(text).value('isthmus_a')),
    [1, 2],
  );
});

test('a histogram that is kept elsewhere is told with cumulative buckets', async (t) => {
  const metrics = createMetrics();
  const lag = metrics.pulledHistogram('isthmus_lag_seconds', { help: 'L', labels: ['peer'] });
  metrics.onCollect(() =>
    lag.set({ bounds: [0.1, 1], counts: [3, 2, 1], sum: 12.5 }, { peer: 'beta' }),
  );
  const scrape = parseScrape(await metrics.text());
  const bucket = (le: string) => scrape.value('isthmus_lag_seconds_bucket', { peer: 'beta', le });
  t.same([bucket('0.1'), bucket('1'), bucket('+Inf')], [3, 5, 6]);
  t.equal(scrape.value('isthmus_lag_seconds_count'), 6);
  t.equal(scrape.value('isthmus_lag_seconds_sum'), 12.5);
  t.equal(scrape.types.get('isthmus_lag_seconds'), 'histogram');
});

test('a part that throws costs its own metrics alone, and is told of', async (t) => {
  const errors: unknown[] = [];
  const metrics = createMetrics({ onError: (error) => errors.push(error) });
  const gauge = metrics.gauge('isthmus_a', { help: 'A' });
  metrics.onCollect(() => {
    throw new Error('broken part');
  });
  metrics.onCollect(() => gauge.set(1, {}));
  await metrics.text();
  const scrape = parseScrape(await metrics.text());
  t.equal(scrape.value('isthmus_a'), 1);
  t.equal(scrape.value('isthmus_scrape_errors_total'), 2);
  t.match(errors, [/broken part/, /broken part/]);
});

test('the process is described when that is asked for', async (t) => {
  const scrape = parseScrape(await createMetrics({ process: true }).text());
  t.ok((scrape.value('process_resident_memory_bytes') ?? 0) > 1e6);
  const without = parseScrape(await createMetrics().text());
  t.equal(without.value('process_resident_memory_bytes'), undefined);
});
