import { test } from 'tap';
import type { ReflectorStatus } from '../kubernetes/reflector.ts';
import { createKindBoard } from './kind-board.ts';

const status = (fields: Partial<ReflectorStatus>): ReflectorStatus => ({
  state: 'synced',
  reason: '',
  since: 1,
  complete: true,
  objects: 2,
  kept: 0,
  resourceVersion: '7',
  problems: new Map(),
  lists: 1,
  silences: 0,
  ...fields,
});

test('a kind is missing until it has been complete once, and stale when it is lost after that', async (t) => {
  const board = createKindBoard(['Node', 'Pod']);
  t.same(board.missing, ['Node: waiting', 'Pod: waiting']);
  board.set('Node', status({}));
  board.set('Pod', status({ state: 'forbidden', complete: false, reason: 'bind a role' }));
  t.same(board.missing, ['Pod: bind a role']);
  t.same(board.stale, []);
  board.set('Node', status({ state: 'failing', reason: 'no connection' }));
  board.set('Pod', status({}));
  t.same(board.missing, []);
  t.same(board.stale, ['Node: no connection']);
});

test('a kind that need not exist is missing only when it cannot be told whether it does', async (t) => {
  const board = createKindBoard(['CiliumEndpointSlice'], ['CiliumEndpointSlice']);
  board.set('CiliumEndpointSlice', status({ state: 'absent', complete: false, reason: 'no CRD' }));
  t.match(board.kinds, [{ state: 'not-installed', complete: true, reason: '' }]);
  t.same(board.missing, []);
  board.set('CiliumEndpointSlice', status({ state: 'forbidden', complete: false, reason: 'role' }));
  t.same(board.missing, ['CiliumEndpointSlice: role']);
  board.set('CiliumEndpointSlice', status({ state: 'absent', reason: 'the CRD is gone' }));
  t.same(board.stale, ['CiliumEndpointSlice: the CRD is gone'], 'once it was there it is missed');
});

test('objects that cannot be used are named with their kind', async (t) => {
  const board = createKindBoard(['Pod']);
  board.set(
    'Pod',
    status({ problems: new Map([['demo/web', 'field status: expected an object']]) }),
  );
  t.same(board.problems, [{ where: 'Pod demo/web', message: 'field status: expected an object' }]);
});
