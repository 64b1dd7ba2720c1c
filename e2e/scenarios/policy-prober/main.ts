/** Runs a prober in a pod: `main.js SOCKET`. Says `ready` once it listens, ends on SIGTERM. */
import { listenProber } from '../policy-prober.ts';

const [socketPath = ''] = process.argv.slice(2);
const stopping = new AbortController();
process.once('SIGTERM', () => stopping.abort());
{
  await using _prober = await listenProber(socketPath);
  console.log('ready');
  await new Promise<void>((resolve) =>
    stopping.signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}
