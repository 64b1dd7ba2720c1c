import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { watchLinks } from './link-monitor.ts';

test('where ip is missing links are looked at all the same, and it is said', async (t) => {
  await using empty = await openTempDir('no-programs');
  const errors: string[] = [];
  const logger = {
    error: ({ err }: { err: Error }) => errors.push(err.message),
  } as unknown as Logger;
  const sleeps: number[] = [];
  const clock = {
    ...systemClock,
    sleep: async (ms: number) => {
      sleeps.push(ms);
    },
  };
  const stopping = new AbortController();
  let looks = 0;
  const options = { clock, logger, searchPath: empty.path };
  for await (const _ of watchLinks(stopping.signal, options)) {
    looks += 1;
    if (looks === 3) stopping.abort();
  }
  t.equal(looks, 3);
  t.equal(errors.length, 3);
  t.match(errors[0], /cannot start ip: it is not in /);
  t.same(sleeps.slice(0, 2), [10_000, 10_000]);
});
