/** Runs the echo server in a pod: `main.js POD tcp:PORT… udp:PORT…`. Says `ready` once it listens, ends on SIGTERM. */
import { listenEcho } from '../echo-server.ts';

const [pod = '', ...ports] = process.argv.slice(2);
const portsOf = (protocol: string): number[] =>
  ports.filter((port) => port.startsWith(`${protocol}:`)).map((port) => Number(port.slice(4)));

const stopping = new AbortController();
process.once('SIGTERM', () => stopping.abort());
{
  await using _server = await listenEcho({
    pod,
    tcp: portsOf('tcp'),
    udp: portsOf('udp'),
    signal: stopping.signal,
  });
  console.log('ready');
  await new Promise<void>((resolve) =>
    stopping.signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}
