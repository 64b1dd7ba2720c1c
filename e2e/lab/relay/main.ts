/** Stands in a node's namespace for a server outside of it: `main.js PORT SOCKET` listens on 127.0.0.1:PORT. Ends on SIGTERM. */
import { connectSockets } from '../relay.ts';

const [port = '', path = ''] = process.argv.slice(2);
const stopping = new AbortController();
process.once('SIGTERM', () => stopping.abort());
{
  await using _relay = await connectSockets({ host: '127.0.0.1', port: Number(port) }, { path });
  console.log('ready');
  await new Promise<void>((resolve) =>
    stopping.signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}
