import { readFile, rename, writeFile } from 'node:fs/promises';
import { Client, type handleUnaryCall, Metadata, Server } from '@grpc/grpc-js';
import { test } from 'tap';
import { openTempDir, type TempDir } from '../testing/temp-dir.ts';
import { type CertificateFiles, createTestAuthority } from '../testing/test-certificates.ts';
import { systemClock } from './clock.ts';
import {
  ADDRESS_TLS_NAME,
  clientChannelOptions,
  clientCredentials,
  dialTarget,
  reloadingClientCredentials,
} from './grpc-client.ts';
import { grpcServerOptions, reloadingServerCredentials } from './grpc-server.ts';

const identity = (bytes: Buffer): Buffer => bytes;
const METHOD = {
  path: '/test.Test/Who',
  requestStream: false,
  responseStream: false,
  requestSerialize: identity,
  requestDeserialize: identity,
  responseSerialize: identity,
  responseDeserialize: identity,
};

test('certificates are read again by server and client, without a restart of either', async (t) => {
  await using dir = await openTempDir('grpc');
  const authority = await createTestAuthority(dir);
  const serverFiles = await install(dir, 'server', await authority.issue('server'));
  const clientFiles = await install(dir, 'client', await authority.issue('first'));
  const server = new Server(grpcServerOptions());
  t.teardown(() => server.forceShutdown());
  const answerName: handleUnaryCall<Buffer, Buffer> = (call, answer) => {
    answer(null, Buffer.from(String(call.getAuthContext().sslPeerCertificate?.subject.CN)));
  };
  server.addService({ who: METHOD }, { who: answerName });
  const port = await new Promise<number>((resolve, reject) => {
    const credentials = reloadingServerCredentials(serverFiles, 50);
    server.bindAsync('127.0.0.1:0', credentials, (error, bound) =>
      error ? reject(error) : resolve(bound),
    );
  });
  const connect = (
    credentials = reloadingClientCredentials(clientFiles, '127.0.0.1', 50),
  ): Client => {
    const options = clientChannelOptions({ tlsName: ADDRESS_TLS_NAME });
    const client = new Client(dialTarget('127.0.0.1', port), credentials, {
      ...options,
      'grpc.use_local_subchannel_pool': 1,
    });
    t.teardown(() => client.close());
    return client;
  };
  const who = (client: Client): Promise<string> =>
    new Promise((resolve, reject) => {
      const deadline = Date.now() + 5000;
      client.makeUnaryRequest(
        METHOD.path,
        identity,
        identity,
        Buffer.alloc(0),
        new Metadata(),
        { deadline },
        (error, answer) => (error ? reject(error) : resolve(String(answer))),
      );
    });

  const longLived = connect();
  t.equal(await who(longLived), 'first');

  // A client whose certificate is replaced: its connection goes on, the next one shows the new name.
  await install(dir, 'client', await authority.issue('second'));
  await until(async () => (await who(connect())) === 'second');
  t.equal(await who(longLived), 'first');

  // A server that moves to another CA: who trusts only that one gets in after the reload.
  const next = await createTestAuthority(dir, 'next');
  const nextFiles = await next.issue('third');
  const material = {
    ca: await readFile(next.caFile),
    cert: await readFile(nextFiles.certFile),
    key: await readFile(nextFiles.keyFile),
  };
  await t.rejects(who(connect(clientCredentials(material, '127.0.0.1'))));
  await install(dir, 'server', await next.issue('server'));
  await until(async () => {
    return (
      (await who(connect(clientCredentials(material, '127.0.0.1'))).catch(() => '')) === 'third'
    );
  });
  t.equal(await who(longLived), 'first', 'an open connection is not cut');

  await t.rejects(who(connect(clientCredentials(material, '10.9.9.9'))), /10\.9\.9\.9/);
  t.throws(() => clientCredentials({ ...material, key: Buffer.from('no PEM') }, '127.0.0.1'));
});

/** Puts certificates where a program expects them, each replaced at once, key before certificate. */
async function install(
  dir: TempDir,
  name: string,
  from: CertificateFiles,
): Promise<CertificateFiles> {
  const files = {
    caFile: dir.file(`${name}-ca.pem`),
    keyFile: dir.file(`${name}-key.pem`),
    certFile: dir.file(`${name}-cert.pem`),
  };
  for (const part of ['caFile', 'keyFile', 'certFile'] as const) {
    await writeFile(`${files[part]}.new`, await readFile(from[part]));
    await rename(`${files[part]}.new`, files[part]);
  }
  return files;
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = systemClock.monotonic() + 10_000;
  for (;;) {
    // While the files are half replaced, a connection may fail.
    if (await condition().catch(() => false)) return;
    if (systemClock.monotonic() > deadline) throw new Error('waited 10 s in vain');
    await systemClock.sleep(50);
  }
}
