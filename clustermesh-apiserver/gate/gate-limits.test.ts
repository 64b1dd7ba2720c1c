import { type ServiceError, status } from '@grpc/grpc-js';
import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { nodeLeaf } from '../../pki/names.ts';
import { createCallerUses, DEFAULT_CALLER_LIMITS } from './caller-limits.ts';
import { openGateFixture, until } from './testing/gate-fixture.ts';

const skip = etcdSkipReason(process.env);
const PREFIX = 'cilium/state/nodes/v1/';
const RANGE = { key: Buffer.from(PREFIX), range_end: Buffer.from('cilium/state/nodes/v10') };
const never = new AbortController().signal;

test('a caller that takes too much is told so, and takes nothing from others', {
  skip,
  timeout: 60_000,
}, async (t) => {
  const fixture = await openGateFixture({
    callerLimits: { streams: 2, watches: 3, connections: 2 },
  });
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const greedy = await fixture.client(fixture.own, nodeLeaf('greedy'));
  const modest = await fixture.client(fixture.own, nodeLeaf('modest'));

  const first = greedy.watch(RANGE);
  const second = greedy.watch(RANGE);
  await until('two streams', () => [first, second].every(({ answers }) => answers[0]?.created));
  second.send({ create_request: RANGE });
  second.send({ create_request: RANGE });
  await until('four answers', () => second.answers.length === 3);
  t.match(second.answers[1], { created: true, canceled: false });
  t.match(
    second.answers[2],
    { created: true, canceled: true, cancelReason: /too many requests: this caller has 3 watches/ },
    'a watch above the limit is cancelled, the others stay',
  );
  const third = greedy.watch(RANGE);
  await until('the refusal', () => third.error !== undefined);
  t.match(third.error, {
    code: status.RESOURCE_EXHAUSTED,
    details: 'etcdserver: too many requests: too-many-streams of this caller',
  });
  const other = modest.watch(RANGE);
  await until('another caller is served', () => other.answers[0]?.created ?? false);
  const status0 = fixture.gate.status;
  t.match(status0.refused, {
    'too-many-streams': { count: 1, last: { caller: 'node-greedy' } },
    'too-many-watches': { count: 1, last: { caller: 'node-greedy' } },
  });
  t.match(
    status0.clients.find(({ name }) => name === 'node-greedy'),
    { connections: 1, streams: 2, watches: 3, bytesInFlight: Number },
  );

  first.cancel();
  await until('the place is given back', () =>
    fixture.gate.status.clients.some((client) => client.streams === 1 && client.watches === 2),
  );
  const again = greedy.watch(RANGE);
  await until('it may come again', () => again.answers[0]?.created ?? false);

  const same = nodeLeaf('greedy');
  const [more, evenMore] = [
    await fixture.client(fixture.own, same),
    await fixture.client(fixture.own, same),
  ];
  await more.call('KV', 'Range', { key: Buffer.from(PREFIX) });
  const refused = await evenMore.call('KV', 'Range', { key: Buffer.from(PREFIX) }).then(
    () => undefined,
    (error: ServiceError) => error.code,
  );
  t.ok(
    refused === status.UNAVAILABLE || refused === status.DEADLINE_EXCEEDED,
    'a third connection',
  );
  t.ok((fixture.gate.status.refused['too-many-connections']?.count ?? 0) > 0);
});

test('reads above the limit wait for their turn, and too many of them are refused', async (t) => {
  const uses = createCallerUses({ ...DEFAULT_CALLER_LIMITS, calls: 2, waitingCalls: 1 });
  const use = uses.of('a');
  const [one, two] = [await use.call(never), await use.call(never)];
  if (typeof one === 'string' || typeof two === 'string') throw new Error('there is place');
  let isServed = false;
  const waiting = use.call(never).then((place) => {
    isServed = true;
    return place;
  });
  t.equal(await use.call(never), 'too-many-calls');
  t.type(await uses.of('b').call(never), 'function', 'another caller has its own');
  t.notOk(isServed);
  one();
  one();
  const three = await waiting;
  if (typeof three === 'string') throw new Error('it was its turn');
  const gone = new AbortController();
  const given = use.call(gone.signal);
  gone.abort(new Error('gone'));
  await t.rejects(given, { message: 'gone' });
  two();
  three();
  t.equal(uses.find('a'), undefined, 'nothing is kept of a caller that has nothing open');
});

test('a caller that does not read gets nothing new', async (t) => {
  const uses = createCallerUses({ ...DEFAULT_CALLER_LIMITS, bytesInFlight: 1000 });
  const use = uses.of('a');
  const place = use.open('stream');
  use.addBytes(1001);
  t.equal(use.open('watch'), 'too-slow');
  t.equal(await use.call(never), 'too-slow');
  use.addBytes(-1001);
  t.type(use.open('watch'), 'function');
  t.type(place, 'function');
});
