/** Passes connections on, as bytes: a socket in the file system is reached from every network namespace. */
import { once } from 'node:events';
import {
  connect,
  createServer,
  type ListenOptions,
  type NetConnectOpts,
  type Socket,
} from 'node:net';

/** Listens at one place and connects each caller to another one. Resolves when it listens; disposing cuts all off. */
export async function connectSockets(
  from: ListenOptions,
  to: NetConnectOpts,
): Promise<AsyncDisposable> {
  const open = new Set<Socket>();
  // Each side may end while the other still speaks.
  const server = createServer({ allowHalfOpen: true }, (caller) => {
    const target = connect({ ...to, allowHalfOpen: true });
    for (const [socket, other] of [
      [caller, target],
      [target, caller],
    ] as const) {
      open.add(socket);
      socket.setNoDelay(true);
      socket.pipe(other);
      // The other side sees a broken connection as one; there is nobody here to tell.
      socket.on('error', () => other.destroy());
      socket.once('close', (isBroken) => {
        open.delete(socket);
        // One that ended in order has told the other so, which may still have something to send.
        if (isBroken) other.destroy();
      });
    }
  });
  server.listen(from);
  await once(server, 'listening');
  let closing: Promise<unknown> | undefined;
  return {
    async [Symbol.asyncDispose]() {
      closing ??= new Promise<void>((resolve) => {
        server.close(() => resolve());
        for (const socket of open) socket.destroy();
      });
      await closing;
    },
  };
}
