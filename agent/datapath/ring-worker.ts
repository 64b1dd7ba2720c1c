/**
 * The thread that reads the ring of events: it blocks in libbpf, so that the agent's own thread does not. Batches go to
 * that one, one at a time: until it asks for the next, the rest stays in the ring. Not for import.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { openRingBuffer } from './ring-buffer.ts';
import {
  type RingMessage,
  type RingWorkerData,
  SHARED_BUSY,
  SHARED_ENDING,
} from './ring-reader.ts';

/** How long a wait lasts: also how long it takes this thread to see that it shall end. */
const POLL_MS = 100;

const { fd, shared } = workerData as RingWorkerData;
const state = new Int32Array(shared);

function say(message: RingMessage, transfer: ArrayBuffer[] = []): void {
  parentPort?.postMessage(message, transfer);
}

function read(): void {
  using ring = openRingBuffer(fd);
  // What was written for somebody who has left.
  ring.discard();
  say({ kind: 'ready' });
  while (Atomics.load(state, SHARED_ENDING) === 0) {
    if (Atomics.wait(state, SHARED_BUSY, 1, POLL_MS) === 'timed-out') continue;
    const records = ring.poll(POLL_MS);
    if (records.length === 0) continue;
    Atomics.store(state, SHARED_BUSY, 1);
    const bytes = records.slice();
    say({ kind: 'records', bytes }, [bytes.buffer]);
  }
}

read();
