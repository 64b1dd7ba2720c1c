import { createServer } from 'node:net';
import { test } from 'tap';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { answersTcp, probeNode } from './probe.ts';

const LOOPBACK = parseIpAddress('127.0.0.1');
const signal = new AbortController().signal;

test('a machine answers by accepting and by refusing', async (t) => {
  const server = createServer((socket) => socket.end());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  t.equal(await answersTcp(LOOPBACK, { port, timeoutMs: 1000, signal }), true);
  await new Promise((resolve) => server.close(resolve));
  const free = await findFreePort();
  t.equal(await answersTcp(LOOPBACK, { port: free, timeoutMs: 1000, signal }), true);
  t.equal(await probeNode(LOOPBACK, signal), 'answered');
});

test('nobody there, or nobody waiting any more: no answer', async (t) => {
  // Set aside for being discarded (RFC 6666).
  const nobody = parseIpAddress('100::1');
  t.equal(await answersTcp(nobody, { port: 4240, timeoutMs: 100, signal }), false);
  const ending = new AbortController();
  const asking = probeNode(nobody, ending.signal);
  ending.abort();
  t.equal(await asking, 'silent');
  t.equal(await probeNode(nobody, ending.signal), 'silent');
});
