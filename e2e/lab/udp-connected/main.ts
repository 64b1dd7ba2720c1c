/**
 * Sends from a connected socket until a second server answers: `main.js ADDRESS PORT`. Writes who answers whenever
 * that changes, and each error; after an error it connects anew. Exit code 1 when all that takes longer than 30 seconds.
 */
import { createSocket } from 'node:dgram';
import { setTimeout as pause } from 'node:timers/promises';

const [address = '', port = ''] = process.argv.slice(2);
const deadline = performance.now() + 30_000;
const servers = new Set<string>();
let last = '';

function say(text: string): void {
  if (text !== last) process.stdout.write(`${text}\n`);
  last = text;
}

/** Sends until the socket fails or there are two servers. */
async function talk(): Promise<void> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  let failed = false;
  socket.on('error', (error) => {
    failed = true;
    say(`error ${'code' in error ? String(error.code) : error.message}`);
  });
  socket.on('message', (message) => {
    const [server = ''] = message.toString().split(' ');
    servers.add(server);
    say(server);
  });
  socket.on('connect', () => socket.send('ping'));
  socket.connect(Number(port), address);
  while (!failed && servers.size < 2 && performance.now() < deadline) {
    await pause(100);
    try {
      if (!failed) socket.send('ping');
    } catch (error) {
      socket.emit('error', error);
    }
  }
  socket.close();
}

while (servers.size < 2 && performance.now() < deadline) await talk();
process.exitCode = servers.size < 2 ? 1 : 0;
