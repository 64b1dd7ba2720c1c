/** A server between the command line and a registry: it sees which calls are made, and can act before, in and after one of them. */

import { readFile } from 'node:fs/promises';
import {
  connect,
  createSecureServer,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { PeeringCluster } from './peering-site.ts';

/** Where in a call: nothing of it has reached the registry; it has and is not answered; it is answered and nobody knows. */
export type CallMoment = 'before' | 'within' | 'after';

/** The proxy. */
export interface AdminProxy extends AsyncDisposable {
  readonly port: number;
  /** Calls since it was opened or the list was emptied, such as `ApplyPeer`. */
  readonly calls: string[];
  /** Is asked at each moment of each call; true: the call stays there for ever. */
  onCall: (call: {
    readonly method: string;
    readonly moment: CallMoment;
  }) => boolean | Promise<boolean>;
}

/** Listens before the registry of a cluster, with the certificate of that. */
export async function openAdminProxy(
  cluster: PeeringCluster,
  admin: { readonly certificate: string; readonly privateKey: string },
): Promise<AdminProxy> {
  const [cert, key] = await Promise.all([
    readFile(cluster.server.certificate),
    readFile(cluster.server.privateKey),
  ]);
  const calls: string[] = [];
  const proxy: Pick<AdminProxy, 'calls' | 'onCall'> = { calls, onCall: () => false };
  const server = createSecureServer({ cert, key });
  const sessions = new Set<{ destroy(): void }>();
  server.on('session', (session) => {
    sessions.add(session);
    session.on('close', () => sessions.delete(session));
    session.on('error', () => undefined);
  });
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    const method = String(headers[':path']).split('/').at(-1) ?? '';
    calls.push(method);
    stream.on('error', () => undefined);
    void pass(stream, { method, headers });
  });
  const pass = async (
    stream: ServerHttp2Stream,
    { method, headers }: { readonly method: string; readonly headers: IncomingHttpHeaders },
  ): Promise<void> => {
    if (await proxy.onCall({ method, moment: 'before' })) return;
    // As without a proxy: who asks loses its connection with that of the registry, and the other way round.
    const lose = (): void => stream.session?.destroy();
    const upstream = connect(`https://127.0.0.1:${cluster.registryPort}`, {
      ca: cluster.ca.root,
      cert: admin.certificate,
      key: admin.privateKey,
      checkServerIdentity: () => undefined,
    });
    sessions.add(upstream);
    upstream.on('error', lose);
    upstream.on('close', () => sessions.delete(upstream));
    const forwarded = upstream.request(
      Object.fromEntries(
        Object.entries(headers).filter(([name]) => name !== ':authority' && name !== 'host'),
      ),
    );
    forwarded.on('error', lose);
    stream.pipe(forwarded);
    stream.on('end', () => void proxy.onCall({ method, moment: 'within' }));
    stream.on('close', () => upstream.destroy());
    let head: IncomingHttpHeaders = {};
    let trailers: IncomingHttpHeaders = {};
    const body: Buffer[] = [];
    forwarded.on('response', (answer) => {
      head = answer;
    });
    forwarded.on('trailers', (last) => {
      trailers = last;
    });
    forwarded.on('data', (chunk: Buffer) => void body.push(chunk));
    await new Promise((resolve) => forwarded.on('end', resolve));
    if ((await proxy.onCall({ method, moment: 'after' })) || stream.destroyed) return;
    stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    stream.respond(head, { waitForTrailers: true });
    stream.end(Buffer.concat(body));
  };
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('it listens nowhere');
  return Object.assign(proxy, {
    port: address.port,
    async [Symbol.asyncDispose]() {
      for (const session of sessions) session.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  });
}
