/** The probers of a lab's pods, as scenarios use them: calls and flows that go on, over TCP and UDP. */
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Lab } from '../lab/lab.ts';
import type {
  ProbeAnswer,
  ProbeProtocol,
  ProbeReport,
  ProbeRequest,
  ProbeTarget,
} from './policy-prober.ts';

const MAIN = fileURLToPath(new URL('./policy-prober/main.js', import.meta.url));

/** A call that waits for its answer. */
export interface ProbeCall {
  /** Resolves to true with the answer, and to false when it failed or was ended. */
  readonly answered: Promise<boolean>;
  end(): Promise<void>;
}

/** A flow that goes on. */
export interface ProbeFlow {
  report(): Promise<ProbeReport>;
  /** Asks no more; the last answers may still come. */
  hush(): Promise<void>;
  end(): Promise<void>;
}

/** The prober of one pod. It ends with the lab. */
export interface Prober extends AsyncDisposable {
  /** Serves these ports over both families. */
  listen(protocol: ProbeProtocol, ports: readonly number[]): Promise<void>;
  call(target: ProbeTarget): ProbeCall;
  stream(target: ProbeTarget, intervalMs: number): Promise<ProbeFlow>;
  download(target: ProbeTarget, intervalMs: number): Promise<ProbeFlow>;
  /** Questions so far, by the address of whoever asked. */
  received(): Promise<Readonly<Record<string, number>>>;
}

/** Starts a prober in a pod; disposing leaves it to the lab. */
export async function startProber(lab: Lab, pod: string): Promise<Prober> {
  const socketPath = join(lab.plan.folder, 'pods', `${pod}.sock`);
  const program = lab.spawn(pod, [process.execPath, MAIN, socketPath]);
  await lab.waitFor(`the prober in ${pod} to listen`, () => {
    if (!program.isRunning()) throw new Error(`it ended: ${program.output()}`);
    return program.output().includes('ready');
  });
  return createProber(await dial(socketPath));
}

function dial(socketPath: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath, () => resolve(socket));
    socket.once('error', reject);
  });
}

function createProber(socket: Socket): Prober {
  const waiting = new Map<number, (answer: ProbeAnswer) => void>();
  let last = 0;
  createInterface({ input: socket }).on('line', (line) => {
    const answer = JSON.parse(line) as ProbeAnswer;
    waiting.get(answer.id)?.(answer);
  });
  // Distributes over the kinds of requests, which `Omit` would not.
  type Question = ProbeRequest extends infer R
    ? R extends unknown
      ? Omit<R, 'id'>
      : never
    : never;
  const send = (question: Question): number => {
    last += 1;
    socket.write(`${JSON.stringify({ ...question, id: last })}\n`);
    return last;
  };
  const ask = (question: Question): { id: number; answer: Promise<ProbeAnswer> } => {
    const id = send(question);
    const answer = new Promise<ProbeAnswer>((resolve, reject) => {
      waiting.set(id, (found) => {
        waiting.delete(id);
        if (found.kind === 'failed') reject(new Error(found.message));
        else resolve(found);
      });
    });
    return { id, answer };
  };
  const end = async (of: number): Promise<void> => {
    await ask({ kind: 'end', of }).answer;
  };
  const begin = async (question: Question): Promise<ProbeFlow> => {
    const { id, answer } = ask(question);
    await answer;
    return {
      async report() {
        const found = await ask({ kind: 'report', of: id }).answer;
        if (found.kind !== 'report') throw new Error(`a prober answered ${found.kind}`);
        return found.report;
      },
      async hush() {
        await ask({ kind: 'hush', of: id }).answer;
      },
      end: () => end(id),
    };
  };
  return {
    async listen(protocol, ports) {
      await ask({ kind: 'listen', protocol, ports }).answer;
    },
    call(target) {
      const id = send({ kind: 'call', ...target });
      let settle: (answered: boolean) => void = () => undefined;
      const answered = new Promise<boolean>((resolve) => {
        settle = resolve;
      });
      waiting.set(id, ({ kind }) => settle(kind === 'answered'));
      return {
        answered,
        async end() {
          waiting.delete(id);
          settle(false);
          await end(id);
        },
      };
    },
    stream: (target, intervalMs) => begin({ kind: 'stream', intervalMs, ...target }),
    download: (target, intervalMs) => begin({ kind: 'download', intervalMs, ...target }),
    async received() {
      const found = await ask({ kind: 'received' }).answer;
      if (found.kind !== 'received') throw new Error(`a prober answered ${found.kind}`);
      return found.counts;
    },
    async [Symbol.asyncDispose]() {
      socket.destroy();
    },
  };
}
