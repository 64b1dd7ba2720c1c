/** A ring of events, read by a thread of its own and handed to this one in batches. */
import { Worker } from 'node:worker_threads';
import { DatapathError } from './datapath-error.ts';

/** What the thread is started with. */
export interface RingWorkerData {
  /** Descriptor of the ring, open as long as the thread runs. */
  readonly fd: number;
  /** Two Int32: SHARED_ENDING, SHARED_BUSY. */
  readonly shared: SharedArrayBuffer;
}

/** What the thread says. */
export type RingMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'records'; readonly bytes: Uint8Array };

/** Not 0: the thread shall end. */
export const SHARED_ENDING = 0;
/** 1: a batch was sent, and no other is wanted yet. */
export const SHARED_BUSY = 1;

/** After a batch this many times as long is left to others: events get a quarter of the main thread at most. */
const REST_FACTOR = 3;

/** Heap of the thread, which only copies: without limits V8 would let it grow to that of a whole program. */
const RESOURCE_LIMITS = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 32 };

/** Who gets what was read. */
export interface RingListener {
  /** Records, each behind its length (`RECORD_HEADER_SIZE` bytes). Must not throw. */
  readonly onRecords: (bytes: Uint8Array) => void;
  /** The thread has failed; nothing more will be read. */
  readonly onFailure: (error: Error) => void;
}

/**
 * Starts to read; what was in the ring before is thrown away. Resolves when it does. Disposing ends the thread, which
 * takes a tenth of a second. Throws DatapathError `kernel`.
 */
export async function openRingReader(fd: number, listener: RingListener): Promise<AsyncDisposable> {
  const shared = new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT);
  const state = new Int32Array(shared);
  const workerData: RingWorkerData = { fd, shared };
  const worker = new Worker(new URL('./ring-worker.js', import.meta.url), {
    workerData,
    // Flags of this process, such as a profiler's, are not for a thread with so little memory.
    execArgv: [],
    resourceLimits: RESOURCE_LIMITS,
  });
  let isClosing = false;
  const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
  const askForMore = (): void => {
    Atomics.store(state, SHARED_BUSY, 0);
    Atomics.notify(state, SHARED_BUSY);
  };
  const handle = (bytes: Uint8Array): void => {
    if (isClosing) return;
    const began = performance.now();
    listener.onRecords(bytes);
    setTimeout(askForMore, (performance.now() - began) * REST_FACTOR).unref();
  };
  await new Promise<void>((resolve, reject) => {
    worker.on('message', (message: RingMessage) => {
      switch (message.kind) {
        case 'ready':
          resolve();
          return;
        case 'records':
          handle(message.bytes);
          return;
        default:
          message satisfies never;
      }
    });
    worker.on('error', (cause: Error) => {
      const failure = new DatapathError('kernel', `cannot read events: ${cause.message}`, {
        cause,
        retryable: true,
      });
      reject(failure);
      if (!isClosing) listener.onFailure(failure);
    });
  });
  return {
    async [Symbol.asyncDispose]() {
      isClosing = true;
      Atomics.store(state, SHARED_ENDING, 1);
      askForMore();
      await exited;
    },
  };
}
