/** Writes every datagram that comes to a UDP port as a line: the sender's address, and the bytes in hex. */
import { createSocket } from 'node:dgram';

const [port = ''] = process.argv.slice(2);
const socket = createSocket('udp4');
socket.on('message', (message, from) => console.log(`${from.address} ${message.toString('hex')}`));
socket.bind(Number(port), () => console.log('ready'));
process.once('SIGTERM', () => socket.close());
