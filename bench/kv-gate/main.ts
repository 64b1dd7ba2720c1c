/** A gate in a process of its own, so that its CPU time can be told from that of etcd and of the clients. */

import { type GateOptions, listenGate } from '../../clustermesh-apiserver/gate/gate.ts';
import { createLogger } from '../../mesh/runtime/log.ts';

const stopping = new AbortController();
process.once('SIGTERM', () => stopping.abort());
// JSON turns Buffers into objects; the certificates come as text.
const options = JSON.parse(process.argv[2] ?? '{}') as Omit<GateOptions, 'signal' | 'logger'>;
const logger = createLogger('bench-gate', { level: 'warn' });
await using gate = await listenGate({ ...options, logger, signal: stopping.signal });
process.stdout.write(`${gate.address.port}\n`);
await new Promise((resolve) => stopping.signal.addEventListener('abort', resolve));
