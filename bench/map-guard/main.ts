/** A worker that keeps looking whether rows that must stay are in an agent's map: a miss is a packet that would be lost. */
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { lookupElement } from '../../agent/datapath/bpf.ts';
import { IPCACHE_VALUE } from '../../mesh/wire/maps.ts';
import { readIdentity } from '../kernel-maps.ts';
import type { GuardAnswer, GuardedRow } from '../map-guard.ts';

/** Rows looked at in a turn, and the pause between two. */
const ROWS_A_TURN = 50;
const PAUSE_MS = 1;

const { fd, rows, port } = workerData as {
  readonly fd: number;
  readonly rows: readonly GuardedRow[];
  readonly port: MessagePort;
};
const sleeper = new Int32Array(new SharedArrayBuffer(4));
const value = new Uint8Array(IPCACHE_VALUE.size);
let [looks, misses, next] = [0, 0, 0];
port.postMessage('ready');
for (;;) {
  const order = receiveMessageOnPort(port)?.message as 'answer' | 'end' | undefined;
  if (order === 'end') break;
  if (order === 'answer') port.postMessage({ looks, misses } satisfies GuardAnswer);
  for (let turn = 0; turn < ROWS_A_TURN; turn += 1) {
    const row = rows[next % rows.length];
    next += 1;
    if (row === undefined) break;
    looks += 1;
    if (!lookupElement(fd, row.key, value) || readIdentity(value) !== row.identity) misses += 1;
  }
  Atomics.wait(sleeper, 0, 0, PAUSE_MS);
}
port.close();
