import { once } from 'node:events';
import { createConnection, createServer, type Socket } from 'node:net';
import { type Test, test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { type FaultyProxy, openFaultyProxy, type ProxyFaults } from './faulty-proxy.ts';

/** An echo server behind a proxy, and one client of it. */
async function openEcho(
  t: Test,
  faults: ProxyFaults = {},
): Promise<{ proxy: FaultyProxy; client: Socket }> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('cannot listen');
  const proxy = await openFaultyProxy({ targetPort: address.port, faults });
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const client = createConnection({ port: proxy.port, host: '127.0.0.1', allowHalfOpen: true });
  client.on('error', () => undefined);
  t.teardown(() => client.destroy());
  return { proxy, client };
}

async function echo(client: Socket, text: string): Promise<{ answer: string; tookMs: number }> {
  const start = systemClock.monotonic();
  client.write(text);
  let answer = '';
  while (answer.length < text.length) {
    const [chunk] = await once(client, 'data');
    answer += String(chunk);
  }
  return { answer, tookMs: systemClock.monotonic() - start };
}

test('bytes pass unchanged, both ends of a connection close in order', async (t) => {
  const { client, proxy } = await openEcho(t);
  t.equal((await echo(client, 'hello')).answer, 'hello');
  t.equal(proxy.connections, 1);
  t.equal(proxy.receivedBytes, 5);
  client.end();
  await once(client, 'end');
});

test('a delay and a rate hold for each direction', async (t) => {
  const delayed = await openEcho(t, { delayMs: 50 });
  const { tookMs } = await echo(delayed.client, 'x');
  t.ok(tookMs >= 99, `${tookMs} ms`);
  const slow = await openEcho(t, { bytesPerSecond: 100_000 });
  const { answer, tookMs: slowMs } = await echo(slow.client, 'y'.repeat(20_000));
  t.equal(answer.length, 20_000);
  t.ok(slowMs >= 199, `${slowMs} ms`);
});

test('a stall holds everything back and loses nothing', async (t) => {
  const { client, proxy } = await openEcho(t);
  await echo(client, 'a');
  proxy.setFaults({ stalled: true });
  const answer = echo(client, 'b');
  await systemClock.sleep(50);
  t.equal(proxy.receivedBytes, 1);
  t.equal(client.destroyed, false);
  proxy.setFaults({});
  t.equal((await answer).answer, 'b');
});

test('cut, half close and refusal', async (t) => {
  const half = await openEcho(t);
  await echo(half.client, 'a');
  half.proxy.halfClose();
  await once(half.client, 'end');
  t.equal(half.client.destroyed, false);

  const { client, proxy } = await openEcho(t);
  await echo(client, 'a');
  proxy.setFaults({ refuse: true });
  proxy.cut();
  await new Promise((resolve) => client.once('close', resolve));
  const refused = createConnection(proxy.port, '127.0.0.1');
  const [error] = await once(refused, 'error');
  t.match(error, { code: 'ECONNRESET' });
  await proxy[Symbol.asyncDispose]();
  await proxy[Symbol.asyncDispose]();
});
