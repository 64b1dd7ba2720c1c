/** Looks all the time whether rows that nothing changes stay in an agent's map as they are. */
import { once } from 'node:events';
import { MessageChannel, Worker } from 'node:worker_threads';

/** A row that must be there. */
export interface GuardedRow {
  readonly key: Uint8Array;
  readonly identity: number;
}

/** How often a row was looked for, and how often it was not there or was another one. */
export interface GuardAnswer {
  readonly looks: number;
  readonly misses: number;
}

/** Looks until it is disposed of. */
export interface MapGuard extends AsyncDisposable {
  /** What was seen so far. */
  answer(): Promise<GuardAnswer>;
}

/** Starts to look, in a thread of its own. */
export async function guardRows(fd: number, rows: readonly GuardedRow[]): Promise<MapGuard> {
  const { port1: port, port2 } = new MessageChannel();
  const worker = new Worker(new URL('./map-guard/main.js', import.meta.url), {
    workerData: { fd, rows, port: port2 },
    transferList: [port2],
  });
  const exited = once(worker, 'exit');
  await once(port, 'message');
  return {
    async answer() {
      const answered = once(port, 'message');
      port.postMessage('answer');
      const [answer] = (await answered) as [GuardAnswer];
      return answer;
    },
    async [Symbol.asyncDispose]() {
      port.postMessage('end');
      await exited;
      port.close();
    },
  };
}
