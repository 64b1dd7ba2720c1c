import { test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { etcdSkipReason, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { openEmbeddedEtcd } from './embedded-etcd.ts';
import { startMaintenance } from './maintenance.ts';

const skip = etcdSkipReason(process.env);
const MIB = 1024 * 1024;

test('an etcd that has run full takes writes again, and nothing that stands is lost', {
  skip,
  timeout: 60_000,
}, async (t) => {
  const dir = await openTempDir('full');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const { signal } = new AbortController();
  await using etcd = await openEmbeddedEtcd({
    dataDir: dir.file('data'),
    quotaBytes: 16 * MIB,
    signal,
  });
  const tls = { ...etcd.tls, serverName: 'localhost' };
  await using store = await openEtcd({ endpoints: [etcd.endpoint], tls });
  await store.put('a/stands', 'as it is');
  await eventually('the first look', () => etcd.maintenance.database !== undefined);
  t.match(etcd.maintenance, { quotaBytes: 16 * MIB, isFull: false, recoveries: 0 });
  let refusal: unknown;
  for (let round = 0; round < 40 && refusal === undefined; round += 1) {
    await store.put('a/history', Buffer.alloc(MIB, round)).catch((error: unknown) => {
      refusal = error;
    });
  }
  t.match(refusal, { code: 'unavailable', retryable: true, message: /space exceeded/ });
  await eventually('etcd takes writes', async () => {
    await store.put('a/after', 'x');
    return true;
  });
  // etcd writes again a moment before its answer is back and counted.
  await eventually('the recovery is told', () => etcd.maintenance.recoveries > 0);
  await eventually('the look has ended', () => etcd.maintenance.lastError === undefined);
  t.match(etcd.maintenance, { isFull: false, recoveries: 1 });
  t.ok((etcd.maintenance.database?.sizeBytes ?? 0) < 8 * MIB, 'the file is small again');
  t.equal((await store.get('a/stands'))?.value.toString(), 'as it is');
});

test('an etcd that is full of what stands says so', { skip, timeout: 60_000 }, async (t) => {
  const quotaBytes = 8 * MIB;
  await using server = await openEtcdServer({ args: [`--quota-backend-bytes=${quotaBytes}`] });
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  let isRefused = false;
  for (let index = 0; !isRefused; index += 1) {
    // Each commit to the disk leaves some values' worth of air in the file: of small ones that is little, however slow the disk.
    await store.put(`a/${index}`, Buffer.alloc(MIB / 16)).catch(() => {
      isRefused = true;
    });
  }
  const lines: string[] = [];
  await using maintenance = startMaintenance(
    { endpoints: [server.endpoint] },
    {
      quotaBytes,
      clock: systemClock,
      checkMs: 50,
      logger: createLogger('test', {
        level: 'error',
        destination: { write: (line) => void lines.push(line) },
      }),
    },
  );
  await eventually('the words', () => maintenance.status.isCrowded);
  t.match(maintenance.status, { defragmentations: 1 }, 'it is not tried again and again');
  t.match(lines.join(), /etcd is full of what stands, not of history/);
});

test('a file that is mostly air is made small', { skip, timeout: 60_000 }, async (t) => {
  await using server = await openEtcdServer();
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  for (let round = 0; round < 20; round += 1) await store.put('a/1', Buffer.alloc(MIB, round));
  await server.compact();
  await using maintenance = startMaintenance(
    { endpoints: [server.endpoint] },
    { quotaBytes: 1024 * MIB, clock: systemClock, checkMs: 50, minAirBytes: 4 * MIB },
  );
  await eventually('a defragmentation', async () => {
    // etcd counts anew when it writes.
    await store.put('a/2', 'x');
    return maintenance.status.defragmentations === 1;
  });
  const sizeBytes = () => maintenance.status.database?.sizeBytes ?? Number.POSITIVE_INFINITY;
  await eventually('its size is seen', () => sizeBytes() < 8 * MIB);
  await server.kill();
  await eventually('its absence is noticed', () => maintenance.status.lastError !== undefined);
  t.equal(maintenance.status.isFull, false, 'an etcd that is away is not full');
  await server.start();
  await eventually('it is looked after again', () => maintenance.status.lastError === undefined);
});
