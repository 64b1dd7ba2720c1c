import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { findCgroupRoot } from '../cgroup-root.ts';
import type { SocketAnswer, SocketRequest } from './socket-client.ts';

/** A cgroup v2 folder of one test's own. */
export interface TestCgroup extends AsyncDisposable {
  readonly path: string;
}

/** A client process in a cgroup. */
export interface SocketClient extends AsyncDisposable {
  call(request: SocketRequest): Promise<SocketAnswer>;
}

/** Makes a cgroup. Disposing ends what still runs in it and removes it. */
export function openTestCgroup(): TestCgroup {
  const path = mkdtempSync(join(findCgroupRoot(), 'isthmus-test-'));
  return {
    path,
    async [Symbol.asyncDispose]() {
      const processes = join(path, 'cgroup.procs');
      const deadline = Date.now() + 5000;
      while (readFileSync(processes, 'utf8') !== '' && Date.now() < deadline) {
        writeFileSync(join(path, 'cgroup.kill'), '1');
        await wait(10);
      }
      rmdirSync(path);
    },
  };
}

/**
 * Starts a client that joins the cgroup before it makes any socket; without a cgroup it stays where this process is.
 * Default for `namespace`, the name of a network namespace: this process's own.
 */
export function openSocketClient(
  cgroup: TestCgroup | undefined,
  options: { readonly namespace?: string } = {},
): SocketClient {
  const script = fileURLToPath(new URL('./socket-client.js', import.meta.url));
  const join = cgroup === undefined ? '' : 'echo $$ > "$1/cgroup.procs" && ';
  const enter =
    options.namespace === undefined ? '' : `nsenter --net=/run/netns/${options.namespace} `;
  const child: ChildProcessWithoutNullStreams = spawn(
    'sh',
    ['-c', `${join}exec ${enter}"$2" "$3"`, 'sh', cgroup?.path ?? '', process.execPath, script],
    { stdio: 'pipe' },
  );
  child.stderr.pipe(process.stderr);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async call(request) {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error('the socket client ended');
      const answer: SocketAnswer = JSON.parse(value);
      return answer;
    },
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => child.on('close', resolve));
      child.stdin.end();
      // One that does not end by itself is not left behind.
      const ending = new AbortController();
      const killed = wait(5000, undefined, { signal: ending.signal }).then(
        () => child.kill('SIGKILL'),
        () => undefined,
      );
      await closed;
      ending.abort();
      await killed;
    },
  };
}
