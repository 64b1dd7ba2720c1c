import { setTimeout as wait } from 'node:timers/promises';
import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { testRun } from '../datapath/bpf.ts';
import { createDatapathEvents } from '../datapath/events.ts';
import { kernelSkipReason } from '../datapath/testing/bpffs.ts';
import { frame } from '../datapath/testing/packet.ts';
import { openProgramRun, TEST_IFINDEX } from '../datapath/testing/program-run.ts';
import { createFilter } from './filter.ts';
import { createMonitor } from './monitor.ts';
import { testNames } from './testing/records.ts';

const skip = kernelSkipReason();
const DROPS = 500_000;
/** How many times so many. The long run also looks at the memory, which a short one says nothing about. */
const IS_LONG = process.env.ISTHMUS_LONG === 'true';
const ROUNDS = IS_LONG ? 40 : 3;
const MEBIBYTE = 1 << 20;

test('a flood of drops under a listener: told in part, counted to the last, memory flat', {
  skip,
  timeout: 300_000,
}, async (t) => {
  await using run = await openProgramRun();
  const monitor = createMonitor({
    traceLevel: 'none',
    historySize: 1000,
    events: createDatapathEvents(run.objects.maps),
    names: testNames(),
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const ending = new AbortController();
  const running = monitor.run(ending.signal);
  let heard = 0;
  let lost = 0;
  const listening = await monitor.listen({
    filter: createFilter({}),
    onEvent(event, line) {
      if (event.kind === 'lost') lost += event.count;
      else if (line().length > 0) heard += 1;
    },
  });
  const packet = frame({ from: '10.9.9.9', to: '10.2.0.7', protocol: 'tcp' });
  const program = run.objects.program('mesh_from_endpoint');
  let settled = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    testRun(program, packet, { ifindex: TEST_IFINDEX, repeat: DROPS });
    await wait(50);
    if (round === ROUNDS / 2) settled = process.memoryUsage.rss();
  }
  await until('each is told or counted', () => heard + lost === ROUNDS * DROPS);
  t.ok(heard >= 1000 && heard < (ROUNDS * DROPS) / 10, `${heard} are told`);
  if (IS_LONG) {
    const grown = (process.memoryUsage.rss() - settled) / MEBIBYTE;
    t.ok(grown < 24, `${grown.toFixed(1)} MiB more after the second half`);
  }
  await listening[Symbol.asyncDispose]();
  ending.abort();
  await running;
});
