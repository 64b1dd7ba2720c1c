import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { createReadiness } from './readiness.ts';

const peer = (name: string, isConnected: boolean, isMirrored: boolean) => ({
  name: parseClusterName(name),
  isConnected,
  isMirrored,
});

function createRig() {
  const clock = createManualClock();
  const readiness = createReadiness({
    perClusterTimeoutMs: 15_000,
    globalTimeoutMs: 600_000,
    clock,
  });
  return { clock, readiness };
}

test('readiness waits for every peer, for one that never connects only so long', async (t) => {
  const { clock, readiness } = createRig();
  t.same(readiness.waitingFor(undefined), ['the directory of peers was not read yet']);
  const slow = peer('slow', true, false);
  const dead = peer('dead', false, false);
  t.equal(readiness.waitingFor([slow, dead]).length, 2);
  await clock.advance(14_999);
  t.equal(readiness.waitingFor([slow, dead]).length, 2);
  await clock.advance(1);
  t.same(readiness.waitingFor([slow, dead]), ['peer slow is not in the local etcd yet']);
  t.same(
    readiness.waitingFor([peer('slow', false, false), dead]),
    ['peer slow is not in the local etcd yet'],
    'who connected once is waited for',
  );
  t.same(readiness.waitingFor([peer('slow', true, true), dead]), []);
  t.same(readiness.waitingFor([slow, dead]), [], 'a peer that breaks later stops nobody');
});

test('readiness waits ten minutes at most', async (t) => {
  const { clock, readiness } = createRig();
  const slow = peer('slow', true, false);
  await clock.advance(599_999);
  t.equal(readiness.waitingFor([slow]).length, 1);
  await clock.advance(1);
  t.same(readiness.waitingFor([slow]), []);
});

test('a mirror without peers is ready', async (t) => {
  t.same(createRig().readiness.waitingFor([]), []);
});
