import { X509Certificate } from 'node:crypto';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { test } from 'tap';
import { anchorOf } from '../../mesh/wire/enrollment-token.ts';
import { createCa, createIntermediateCa, issueCertificate } from '../../pki/ca.ts';
import { serverLeaf } from '../../pki/names.ts';
import { judgeClock } from './preflight.ts';
import { findAuthority, probeServer } from './server-probe.ts';

const { signal } = new AbortController();

test('a server is believed by a certificate that it shows, if all below are signed by it', async (t) => {
  const root = await createCa();
  const between = await createIntermediateCa(root, { commonName: 'between' });
  const other = await createCa({ commonName: 'other' });
  const pair = await issueCertificate(between, serverLeaf('alpha'));
  const leaf = new X509Certificate(pair.certificate);
  const middle = new X509Certificate(between.certificate);
  const top = new X509Certificate(root.certificate);
  const stranger = new X509Certificate(other.certificate);
  const named = (ca: { certificate: string }) => anchorOf(ca.certificate);
  t.equal(findAuthority([leaf, middle, top], named(root))?.subject, top.subject);
  t.equal(findAuthority([leaf, middle], named(between))?.subject, middle.subject);
  t.equal(findAuthority([leaf], anchorOf(pair.certificate))?.subject, leaf.subject);
  t.equal(findAuthority([leaf, middle, top], named(other)), undefined);
  t.equal(findAuthority([leaf, middle], named(root)), undefined, 'it is not shown');
  t.equal(findAuthority([leaf, top], named(root)), undefined, 'it has not signed the leaf');
  t.equal(
    findAuthority([leaf, stranger], named(other)),
    undefined,
    'a certificate that is only shown',
  );
  t.equal(findAuthority([], named(root)), undefined);

  // A whole server: what it shows besides changes nothing.
  const server = createTlsServer({
    cert: [pair.certificate, root.certificate, other.certificate].join(''),
    key: pair.privateKey,
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const where = { host: '127.0.0.1', port };
  const probed = await probeServer(where, { anchor: named(root), timeoutMs: 10_000, signal });
  t.equal(new X509Certificate(probed.authority).fingerprint256, top.fingerprint256);
  t.equal(probed.now, undefined, 'it speaks no HTTP/2');
  await t.rejects(probeServer(where, { anchor: named(other), timeoutMs: 10_000, signal }), {
    code: 'untrusted',
    message: /is not the one that the token is for.*CN=clustermesh-apiserver\.cilium\.io/,
  });
});

test('a server that is silent or speaks no TLS is not waited for', async (t) => {
  const anchor = Buffer.alloc(32);
  for (const greet of [undefined, 'SSH-2.0-OpenSSH_9.2\r\n']) {
    const server = createTcpServer((socket) => {
      socket.on('error', () => undefined);
      if (greet !== undefined) socket.end(greet);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    await t.rejects(probeServer({ host: '127.0.0.1', port }, { anchor, timeoutMs: 300, signal }), {
      code: 'unreachable',
      retryable: true,
    });
    server.close();
  }
  const stopped = new AbortController();
  stopped.abort(new Error('interrupted'));
  await t.rejects(
    probeServer({ host: '127.0.0.1', port: 1 }, { anchor, timeoutMs: 300, signal: stopped.signal }),
    { message: 'interrupted' },
  );
});

test('the clock is judged by that of the server, or by its certificate', async (t) => {
  const ca = await createCa();
  const certificate = new X509Certificate(ca.certificate);
  const now = Date.now();
  const judge = (theirs: number | undefined, ours: number) =>
    judgeClock({ now: theirs, certificate }, ours);
  t.match(judge(now, now + 10_000), { verdict: 'good' });
  t.match(judge(now, now + 60_000), { verdict: 'odd', text: /60 s ahead of/ });
  t.match(judge(now, now - 600_000), { verdict: 'bad', text: /600 s behind.*300 s are the limit/ });
  t.match(judge(undefined, now), { verdict: 'good' });
  t.match(judge(undefined, now - 86_400_000), {
    verdict: 'bad',
    text: /not yet valid.*timedatectl/,
  });
  t.match(judge(now + 4e12, now + 4e12), {
    check: 'registry',
    verdict: 'bad',
    text: /expired.*renew it there/,
  });
});
