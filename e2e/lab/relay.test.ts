import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { connectSockets } from './relay.ts';

test('connectSockets() passes bytes both ways and the end of either side', async (t) => {
  await using dir = await openTempDir('relay');
  const callers: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    callers.push(socket);
    socket.on('data', (chunk) => socket.write(`heard ${chunk}`));
    socket.on('end', () => socket.end('bye'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const path = dir.file('relay.sock');
  const relay = await connectSockets({ path }, { host: '127.0.0.1', port });
  t.teardown(() => relay[Symbol.asyncDispose]());

  const caller = connect({ path });
  caller.write('hello');
  t.equal(String((await once(caller, 'data'))[0]), 'heard hello');
  const rest: string[] = [];
  caller.on('data', (chunk) => rest.push(String(chunk)));
  caller.end();
  await once(caller, 'close');
  t.equal(rest.join(''), 'bye', 'what the other side says after our end');

  const cut = connect({ path });
  cut.write('hello');
  await once(cut, 'data');
  callers.at(-1)?.resetAndDestroy();
  await once(cut, 'close');
  t.pass('a broken connection is broken for the caller, too');

  const open = connect({ path });
  open.write('hello');
  await once(open, 'data');
  await relay[Symbol.asyncDispose]();
  await once(open, 'close');
  const late = connect({ path });
  await t.rejects(once(late, 'connect'), { code: 'ENOENT' });
});
