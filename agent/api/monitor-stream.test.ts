import { once } from 'node:events';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { PassThrough } from 'node:stream';
import { type Test, test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { parseOptions } from '../../mesh/runtime/options.ts';
import type { MonitorEvent } from '../monitor/event.ts';
import { createFakeEvents, encodePacket, testPacket } from '../monitor/testing/records.ts';
import { MONITOR_OPTIONS } from '../options.ts';
import { createMemoryDatapath } from '../state/memory-datapath.ts';
import { openNodeRig } from '../testing/node-rig.ts';
import { publishAlpha, publishBeta } from '../testing/two-clusters.ts';
import { askTraceLevel, callAgent } from './client.ts';
import { followEvents } from './monitor-client.ts';
import { runMonitor } from './monitor-command.ts';

/** An agent over made-up events. */
async function openRig(t: Test) {
  const events = createFakeEvents();
  const rig = await openNodeRig(t, { datapath: { ...createMemoryDatapath(), events } });
  return { rig, events };
}

/** Follows until it is told to stop; `heard` grows. */
function follow(t: Test, socketPath: string, query: Record<string, string> = {}) {
  const ending = new AbortController();
  const heard: MonitorEvent[] = [];
  const done = (async () => {
    const stream = followEvents(socketPath, new URLSearchParams(query), ending.signal);
    for await (const { event } of stream) heard.push(event);
  })();
  const stop = async (): Promise<void> => {
    ending.abort();
    await done;
  };
  // Some tests want it to fail; those have seen it by then.
  t.teardown(() => stop().catch(() => undefined));
  return { heard, done, stop };
}

const DROP = encodePacket(testPacket({ sourceIdentity: 131_372 }));
const TRACE = encodePacket(testPacket({ kind: 'trace', reason: 0 }));

test('a listener on the socket hears what it asked for, with the names that the agent knows', async (t) => {
  const { rig, events } = await openRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.addPeer(await publishBeta());
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  await rig.ready('alpha');
  await rig.ready('beta');
  const { identities } = await rig.status();
  t.ok(identities > 0);
  const all = follow(t, rig.socketPath);
  const traces = follow(t, rig.socketPath, { kind: 'trace' });
  await until('both listen', () => all.heard.length === 1 && traces.heard.length === 1);
  t.match(all.heard, [{ kind: 'start', node: 'n1', traceLevel: 'none', history: 0 }]);
  const [endpoint] = (await rig.status()).endpoints;
  if (endpoint === undefined) throw new Error('there is one');
  events.emit(
    encodePacket(
      testPacket({
        ifindex: endpoint.ifindex,
        endpointId: endpoint.endpointId,
        destinationIdentity: endpoint.identity,
        sourceIdentity: 2 * 65_536 + 7,
      }),
    ),
    TRACE,
  );
  await until('both have heard', () => all.heard.length === 3 && traces.heard.length === 2);
  t.match(all.heard[1], {
    kind: 'drop',
    node: 'n1',
    endpoint: { id: endpoint.endpointId, pod: 'demo/a' },
    source: { cluster: 'beta' },
    destination: { cluster: 'alpha', labels: endpoint.labels },
  });
  t.match(traces.heard[1], { kind: 'trace' });
  await all.stop();
  await traces.stop();
  await until('nothing is read any more', () => events.state.readers === 0);
  const left = follow(t, rig.socketPath);
  await until('it listens', () => left.heard.length === 1);
  await Promise.all([
    t.rejects(left.done, { code: 'unreachable', message: /cannot reach the agent/ }),
    rig.stop(),
  ]);
  t.equal(events.state.readers, 0);
});

test('a listener that does not read loses events, and is told how many', async (t) => {
  const BATCH = 1000;
  const BATCHES = 15;
  const { rig, events } = await openRig(t);
  await rig.start();
  const slow = connect(rig.socketPath);
  t.teardown(() => slow.destroy());
  await once(slow, 'connect');
  slow.pause();
  slow.write('GET /v1/monitor HTTP/1.0\r\n\r\n');
  const quick = follow(t, rig.socketPath);
  await until('both listen', () => quick.heard.length === 1 && events.state.readers === 1);
  const batch = Array.from({ length: BATCH }, () => DROP);
  for (let sent = 1; sent <= BATCHES; sent += 1) {
    events.emit(...batch);
    await until('the quick one has it', () => quick.heard.length === sent * BATCH + 1);
  }
  const heard: MonitorEvent[] = [];
  const lines = createInterface({ input: slow.resume() });
  lines.on('line', (line) => {
    if (line.startsWith('{')) heard.push(JSON.parse(line));
  });
  const count = (): number =>
    heard.reduce((sum, event) => sum + (event.kind === 'lost' ? event.count : 1), 0);
  await until('every event is there or counted', () => count() === BATCH * BATCHES + 1);
  const gap = heard.findIndex(({ kind }) => kind === 'lost');
  t.match(heard[gap], { kind: 'lost', where: 'listener' });
  t.ok(gap <= 4096 + 3000, `it got ${gap} events first: its queue, and what the socket takes`);
  t.equal(heard.filter(({ kind }) => kind === 'lost').length, 1);
  events.emit(DROP);
  await until('it hears again', () => heard.at(-1)?.kind === 'drop');
});

test('the trace level is asked for and changed; wrong questions say what is right', async (t) => {
  const { rig, events } = await openRig(t);
  await rig.start();
  const { socketPath } = rig;
  t.equal(await askTraceLevel(socketPath), 'none');
  t.equal(await askTraceLevel(socketPath, 'medium'), 'medium');
  t.equal(await askTraceLevel(socketPath), 'medium');
  t.equal(events.state.level, 'none', 'nobody listens');
  const ask = (path: string, method: 'GET' | 'PUT' | 'POST', body?: string) =>
    callAgent(socketPath, { path, method, ...(body === undefined ? {} : { body }) });
  t.match(await ask('/v1/trace-level', 'PUT', '{"level":"all"}'), {
    status: 400,
    body: /expected .* none, low, medium, maximum/,
  });
  t.match(await ask('/v1/trace-level', 'POST'), { status: 405, body: /expected GET or PUT/ });
  t.match(await ask('/v1/monitor', 'POST'), { status: 405 });
  const wrong: readonly [string, RegExp][] = [
    ['kind=x', /kind x: expected one of drop, trace, service/],
    ['colour=red', /colour: expected one of from, to, identity/],
    ['last=-1', /last -1: expected a number from 0/],
    ['follow=maybe', /follow maybe: expected true or false/],
  ];
  for (const [query, message] of wrong) {
    t.match(await ask(`/v1/monitor?${query}`, 'GET'), { status: 400, body: message });
    const [name = '', value = ''] = query.split('=');
    await t.rejects(follow(t, socketPath, { [name]: value }).done, {
      code: 'bad-question',
      message,
    });
  }
});

test('the command prints what it is asked to, and says why nothing comes', async (t) => {
  const { rig, events } = await openRig(t);
  await rig.start();
  const print = async (...argv: string[]) => {
    const output = new PassThrough();
    const hints: string[] = [];
    const ending = new AbortController();
    const values = parseOptions(MONITOR_OPTIONS, [`--socket-path=${rig.socketPath}`, ...argv], {});
    const done = runMonitor(values, {
      output,
      say: (line) => hints.push(line),
      colours: false,
      signal: ending.signal,
    });
    return { output, hints, done, ending };
  };
  const compact = await print('--drops', '--port=80');
  await until('it listens', () => events.state.readers === 1);
  events.emit(TRACE, DROP);
  const [line] = await once(compact.output, 'data');
  t.match(String(line), / drop {4}policy-denied ingress endpoint 7 .*: no policy row allows it/);
  compact.ending.abort();
  await compact.done;
  t.same(compact.hints, []);

  const trace = await print('--trace', '-o', 'json');
  const [first] = await once(trace.output, 'data');
  t.match(JSON.parse(String(first)), { kind: 'start' });
  t.match(trace.hints, [/trace level is none: `clustermesh-agent trace-level medium`/]);
  trace.output.destroy(Object.assign(new Error('closed'), { code: 'EPIPE' }));
  await trace.done;

  const last = await print('--last=5');
  await t.rejects(last.done, { code: 'bad-question', message: /--monitor-history/ });
});
