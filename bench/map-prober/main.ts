/**
 * A worker that waits for rows to appear in an agent's map and tells how long each took. A thread of its own, so that
 * neither the writers nor their answers delay the looking.
 */
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { lookupElement } from '../../agent/datapath/bpf.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { IPCACHE_VALUE } from '../../mesh/wire/maps.ts';
import { readIdentity } from '../kernel-maps.ts';
import type { ProbeOrder, ProberAnswer } from '../map-prober.ts';

const LOOK_EVERY_MS = 0.2;
const IDLE_MS = 1;

const { fd, port } = workerData as { readonly fd: number; readonly port: MessagePort };
const sleeper = new Int32Array(new SharedArrayBuffer(4));
const value = new Uint8Array(IPCACHE_VALUE.size);
const now = (): number => performance.timeOrigin + systemClock.monotonic();

let waiting: ProbeOrder[] = [];
let lags: number[] = [];
for (let isEnding = false; !isEnding; ) {
  for (;;) {
    const received = receiveMessageOnPort(port);
    if (received === undefined) break;
    const order = received.message as ProbeOrder | 'answer' | 'end';
    if (order === 'end') isEnding = true;
    else if (order === 'answer') {
      port.postMessage({ lags, waiting: waiting.length } satisfies ProberAnswer);
      lags = [];
    } else waiting.push(order);
  }
  waiting = waiting.filter(({ key, identity, at }) => {
    if (!lookupElement(fd, key, value) || readIdentity(value) !== identity) return true;
    lags.push(now() - at);
    return false;
  });
  Atomics.wait(sleeper, 0, 0, waiting.length > 0 ? LOOK_EVERY_MS : IDLE_MS);
}
port.close();
