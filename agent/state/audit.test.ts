import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Test, test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { ipFromBytes, makePrefix } from '../../mesh/wire/ip.ts';
import type { DatapathTable, IpcacheEntry } from '../datapath/desired.ts';
import { kernelSkipReason } from '../datapath/testing/bpffs.ts';
import { sameIpcacheEntry } from '../merge/addresses.ts';
import { openKernelTables } from '../testing/kernel-tables.ts';
import { openNodeRig } from '../testing/node-rig.ts';
import { ipcacheText, publishAlpha } from '../testing/two-clusters.ts';
import { createAudit } from './audit.ts';
import { createMemoryDatapath } from './memory-datapath.ts';
import { createReconciler } from './reconciler.ts';

type Table = DatapathTable<IpcacheEntry, Pick<IpcacheEntry, 'prefix'>>;

const logger = createLogger('test', { level: 'silent' });

/** Row number `index` of a table of addresses. */
function rowOf(index: number, identity = 0x10101): IpcacheEntry {
  return {
    prefix: makePrefix(ipFromBytes(Uint8Array.of(10, index >> 16, index >> 8, index)), 32),
    identity: parseNumericIdentity(identity),
    tunnelEndpoint: undefined,
    clusterId: 1,
  };
}

/** A reconciler whose kernel holds `count` rows, all wanted. */
function fill(kernel: Table, count: number) {
  const reconciler = createReconciler(kernel, { sameRow: sameIpcacheEntry });
  for (let index = 0; index < count; index += 1) reconciler.table.set(rowOf(index));
  reconciler.flush(0);
  return reconciler;
}

/** Compares in one go. */
function findingsOf(reconciler: ReturnType<typeof fill>) {
  const steps = reconciler.audit();
  let step = steps.next();
  while (step.done !== true) step = steps.next();
  return step.value;
}

const CASES: readonly {
  what: string;
  change: Parameters<Table['apply']>[0];
  found: { unwanted?: number; different?: number; missing?: number };
}[] = [
  { what: 'nothing', change: { upserts: [], deletes: [] }, found: {} },
  {
    what: 'rows that somebody deleted',
    change: { upserts: [], deletes: [rowOf(3), rowOf(4)] },
    found: { missing: 2 },
  },
  {
    what: 'a row that somebody added',
    change: { upserts: [rowOf(70_000)], deletes: [] },
    found: { unwanted: 1 },
  },
  {
    what: 'a row that somebody changed',
    change: { upserts: [rowOf(5, 0x20202)], deletes: [] },
    found: { different: 1 },
  },
  {
    what: 'as many deleted as added',
    change: { upserts: [rowOf(70_001), rowOf(6, 0x20202)], deletes: [rowOf(7)] },
    found: { unwanted: 1, different: 1, missing: 1 },
  },
];

/** Every case on one table; each must be found, and be gone after the next flush. */
function tryCases(t: Test, kernel: Table, count: number): void {
  const reconciler = fill(kernel, count);
  for (const { what, change, found } of CASES) {
    kernel.apply(change);
    t.match(
      findingsOf(reconciler),
      { unwanted: 0, different: 0, missing: 0, ...found },
      `${what}: found`,
    );
    reconciler.flush(0);
    const clean = { entries: count, unwanted: 0, different: 0, missing: 0 };
    t.same(findingsOf(reconciler), clean, `${what}: mended`);
  }
}

test('promise 16: what the kernel holds is compared with what is wanted, and mended', (t) => {
  tryCases(t, createMemoryDatapath().ipcache, 100);
  t.end();
});

test('promise 16: the same on a real map, read in parts', {
  skip: kernelSkipReason(),
}, async (t) => {
  await using kernel = await openKernelTables();
  tryCases(t, kernel.ipcache, 5000);
});

test('what is on its way is not wrong', (t) => {
  const kernel = createMemoryDatapath().ipcache;
  const reconciler = fill(kernel, 10);
  reconciler.table.set(rowOf(3, 0x10102));
  reconciler.table.set(rowOf(50));
  reconciler.table.remove(rowOf(4));
  t.match(findingsOf(reconciler), { entries: 10, unwanted: 0, different: 0, missing: 0 });
  t.match(reconciler.status(), { pending: 3 });
  t.end();
});

test('rows of a previous process are kept, and one that has gone is nobody’s loss', (t) => {
  const kernel = createMemoryDatapath().ipcache;
  fill(kernel, 10);
  const restarted = createReconciler(kernel, { sameRow: sameIpcacheEntry });
  t.match(findingsOf(restarted), { entries: 10, unwanted: 0, different: 0, missing: 0 });
  kernel.apply({ upserts: [], deletes: [rowOf(1)] });
  t.match(findingsOf(restarted), { missing: 1 });
  restarted.flush(0);
  t.equal(kernel.rows().length, 9);
  t.match(restarted.status(), { adopted: 9, pending: 0 });
  t.end();
});

test('writes between two parts are no findings', { skip: kernelSkipReason() }, async (t) => {
  await using kernel = await openKernelTables();
  const reconciler = fill(kernel.ipcache, 6000);
  const steps = reconciler.audit();
  let step = steps.next();
  for (let turn = 0; step.done !== true; turn += 1) {
    for (let index = 0; index < 50; index += 1) {
      reconciler.table.remove(rowOf(turn * 50 + index));
      reconciler.table.set(rowOf(10_000 + turn * 50 + index));
      reconciler.table.set(rowOf(5000 + turn * 50 + index, 0x10102));
    }
    reconciler.flush(0);
    step = steps.next();
  }
  t.match(step.value, { unwanted: 0, different: 0, missing: 0 });
});

test('a table that cannot be read is a problem, and the others are looked at', async (t) => {
  const ending = new AbortController();
  const good = fill(createMemoryDatapath().ipcache, 3);
  const audit = createAudit({
    tables: [
      {
        name: 'policy',
        // biome-ignore lint/correctness/useYield: it fails before it could
        *audit() {
          throw new Error('EPERM');
        },
      },
      good,
    ],
    flush: () => undefined,
    intervalMs: 1,
    clock: systemClock,
    logger,
  });
  const running = audit.run(ending.signal);
  await until('it has looked', () => audit.status().at !== undefined);
  t.match(audit.problems(), [/table policy cannot be compared with the kernel: EPERM/]);
  t.match(audit.status().tables, [{ table: 'ipcache', latest: { entries: 3 }, wrong: 0 }]);
  ending.abort();
  await running;
  await nextTurn();
});

test('promise 16: an agent notices that somebody emptied its map, says so, and mends it', async (t) => {
  const rig = await openNodeRig(t, { auditIntervalMs: 50 });
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  await until('it is ready', async () => (await rig.status()).ready);
  const rows = ipcacheText(rig.datapath);
  const seen: string[] = [];
  rig.datapath.ipcache.apply({ upserts: [], deletes: rig.datapath.ipcache.rows() });
  await until('it is told', async () => {
    seen.push(...(await rig.status()).missing);
    return seen.length > 0;
  });
  t.match(seen, [/table ipcache: \d rows were missing; they are written again/]);
  await until('it is mended', async () => (await rig.status()).ready);
  t.same(ipcacheText(rig.datapath), rows);
  const { audit } = await rig.status();
  const ipcache = audit.tables.find(({ table }) => table === 'ipcache');
  t.equal(ipcache?.wrong, rows.length, 'and remembered');
});
