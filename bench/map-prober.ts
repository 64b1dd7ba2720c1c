/** Measures how long after a write its row is in an agent's map. */
import { once } from 'node:events';
import { MessageChannel, Worker } from 'node:worker_threads';
import { systemClock } from '../mesh/runtime/clock.ts';

/** A row to wait for. `at`: when its value was about to be written, by `proberNow()`. */
export interface ProbeOrder {
  readonly key: Uint8Array;
  readonly identity: number;
  readonly at: number;
}

/** What was seen since the last answer, in milliseconds each, and how many rows are still waited for. */
export interface ProberAnswer {
  readonly lags: readonly number[];
  readonly waiting: number;
}

/** A running prober. Disposing ends its thread. */
export interface MapProber extends AsyncDisposable {
  expect(order: ProbeOrder): void;
  answer(): Promise<ProberAnswer>;
}

/** Milliseconds that mean the same in all threads of a process. */
export function proberNow(): number {
  return performance.timeOrigin + systemClock.monotonic();
}

/** Starts a prober over an open map. */
export function openMapProber(fd: number): MapProber {
  const { port1: port, port2 } = new MessageChannel();
  const worker = new Worker(new URL('./map-prober/main.js', import.meta.url), {
    workerData: { fd, port: port2 },
    transferList: [port2],
  });
  const exited = once(worker, 'exit');
  return {
    expect: (order) => port.postMessage(order),
    async answer() {
      const answered = once(port, 'message');
      port.postMessage('answer');
      const [answer] = (await answered) as [ProberAnswer];
      return answer;
    },
    async [Symbol.asyncDispose]() {
      port.postMessage('end');
      await exited;
      port.close();
    },
  };
}
