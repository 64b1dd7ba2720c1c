import { test } from 'tap';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createAttachmentKeeper } from './attachment-keeper.ts';

/** A logger that keeps what it is told. */
function createKeptLog() {
  const lines: string[] = [];
  const destination = { write: (line: string): void => void lines.push(line) };
  return { lines, logger: createLogger('test', { destination }) };
}

test('createAttachmentKeeper() heals, tells, and finishes an upgrade when the tables are whole', async (t) => {
  const clock = createManualClock();
  const { lines, logger } = createKeptLog();
  const ending = new AbortController();
  let healed: string[] | Error = [];
  let missing = ['the own cluster is being read'];
  let pending = ['mesh_ipcache4'];
  let looks = 0;
  const keeper = createAttachmentKeeper({
    datapath: {
      async heal(hostInterfaces) {
        looks += 1;
        t.same(hostInterfaces, ['pod.0']);
        if (healed instanceof Error) throw healed;
        return healed;
      },
      upgrade: {
        pending: () => pending,
        finish() {
          pending = [];
        },
      },
    },
    hostInterfaces: () => ['pod.0'],
    missing: () => missing,
    clock,
    logger,
  });
  const running = keeper.run(ending.signal);
  const look = async (): Promise<void> => {
    const before = looks;
    await clock.advance(2000);
    t.equal(looks, before + 1, 'once in two seconds');
  };
  await look();
  t.same(pending, ['mesh_ipcache4'], 'old programs go on while rows are missing');
  t.same(lines, []);
  t.match(keeper.problems(), [/version before .* mesh_ipcache4 .*: the own cluster is being read/]);

  missing = [];
  healed = ['attached to the tunnel device isthmus_vxlan again'];
  await look();
  t.same(pending, []);
  t.same(keeper.problems(), []);
  t.match(lines.splice(0), [
    /mesh_ipcache4.*upgrade is complete/,
    /isthmus_vxlan again.*attached again/,
  ]);

  healed = new Error('no such device');
  await look();
  await look();
  t.equal(lines.splice(0).length, 1, 'a failure is told once');
  t.match(keeper.problems(), [/cannot be attached again: no such device/]);
  healed = [];
  await look();
  healed = new Error('no such device');
  await look();
  t.equal(lines.length, 1, 'and again when it comes back');
  ending.abort();
  await clock.advance(2000);
  await running;
});
