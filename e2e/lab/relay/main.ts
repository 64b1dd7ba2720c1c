/**
 * Stands in a network namespace between it and the others: `main.js FROM TO` listens at FROM and connects each caller to TO. Each
 * is `ADDRESS:PORT`, or the path of a socket, which is the same everywhere. Ends on SIGTERM.
 */
import { connectSockets } from '../relay.ts';

const [from = '', to = ''] = process.argv.slice(2);
const stopping = new AbortController();
process.once('SIGTERM', () => stopping.abort());
{
  await using _relay = await connectSockets(place(from), place(to));
  console.log('ready');
  await new Promise<void>((resolve) =>
    stopping.signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}

function place(text: string): { host: string; port: number } | { path: string } {
  if (text.startsWith('/')) return { path: text };
  const colon = text.lastIndexOf(':');
  return { host: text.slice(0, colon), port: Number(text.slice(colon + 1)) };
}
