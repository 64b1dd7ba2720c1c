/** A TCP connection between two network namespaces that lives as long as a test wants: each line comes back. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** An established connection. */
export interface EchoConnection extends AsyncDisposable {
  readonly client: { readonly address: string; readonly port: number };
  readonly server: { readonly address: string; readonly port: number };
  /** Sends a line and returns whether it came back within five seconds. */
  isAlive(): Promise<boolean>;
}

const SERVER = `
const server = require('net').createServer((socket) => { socket.on('error', () => {}); socket.pipe(socket); });
server.listen(0, process.argv[1], () => console.log(server.address().port));`;

const CLIENT = `
const socket = require('net').connect({ host: process.argv[1], port: Number(process.argv[2]) });
socket.on('connect', () => console.log(socket.localPort));
socket.on('error', (error) => console.log('error ' + error.code));
socket.on('data', (data) => process.stdout.write(data));
process.stdin.on('data', (data) => socket.write(data));
process.stdin.on('end', () => process.exit());`;

/** Connects from one namespace to an address of another. */
export async function openEchoConnection(
  from: { readonly namespace: string; readonly address: string },
  to: { readonly namespace: string; readonly address: string },
): Promise<EchoConnection> {
  const server = start(to.namespace, SERVER, [to.address]);
  const port = await server.line(5000);
  const client = start(from.namespace, CLIENT, [to.address, port]);
  const localPort = await client.line(5000);
  let sent = 0;
  return {
    client: { address: from.address, port: Number(localPort) },
    server: { address: to.address, port: Number(port) },
    async isAlive() {
      sent += 1;
      const text = `line ${sent}`;
      client.child.stdin.write(`${text}\n`);
      for (;;) {
        const answer = await client.line(5000).catch(() => undefined);
        if (answer === undefined || answer.startsWith('error')) return false;
        if (answer === text) return true;
      }
    },
    async [Symbol.asyncDispose]() {
      await client.end();
      await server.end();
    },
  };
}

function start(namespace: string, script: string, args: readonly string[]) {
  const child: ChildProcessWithoutNullStreams = spawn(
    'nsenter',
    [`--net=/run/netns/${namespace}`, process.execPath, '-e', script, ...args],
    { stdio: 'pipe' },
  );
  child.stderr.pipe(process.stderr);
  const closed = new Promise((resolve) => child.once('close', resolve));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    child,
    async line(timeoutMs: number): Promise<string> {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error('nothing came back')), timeoutMs);
      });
      try {
        const { value, done } = await Promise.race([lines.next(), late]);
        if (done) throw new Error(`the process in ${namespace} ended`);
        return value;
      } finally {
        clearTimeout(timer);
      }
    },
    async end() {
      child.kill('SIGKILL');
      await closed;
    },
  };
}
