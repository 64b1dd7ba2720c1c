/** Sends a datagram and writes the answer: `main.js ADDRESS PORT`. Exit code 1 when none comes within two seconds. */
import { createSocket } from 'node:dgram';

const [address = '', port = ''] = process.argv.slice(2);
const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
const timeout = setTimeout(() => process.exit(1), 2000);
socket.on('message', (message) => {
  process.stdout.write(message);
  clearTimeout(timeout);
  socket.close();
});
socket.send('ping', Number(port), address);
