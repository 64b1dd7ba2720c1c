import { chmod, readdir, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:tls';
import { type Test, test } from 'tap';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { createCa, issueCertificate, type LeafOptions } from '../pki/ca.ts';
import { writeCa, writeSecret } from '../pki/layout.ts';
import { machineLeaf, nodeLeaf, remoteLeaf, serverLeaf } from '../pki/names.ts';
import { EXIT_CODES } from './cli-error.ts';
import { errorLines, exitCodeOf } from './exit-code.ts';
import { pkiCommand } from './pki-command.ts';

const HOUR_MS = 3_600_000;

/** Runs the command as `main.ts` does. */
async function pki(
  ...args: readonly string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  const printed: string[] = [];
  const run = { code: 0, stderr: '' };
  const command = pkiCommand(
    (line) => printed.push(`${line}\n`),
    () => {
      run.code = EXIT_CODES.problem;
    },
  );
  for (const one of [command, ...command.commands]) {
    one.exitOverride().configureOutput({ writeErr: () => undefined });
  }
  try {
    await command.parseAsync(args, { from: 'user' });
  } catch (error) {
    run.code = exitCodeOf(error);
    run.stderr = errorLines(error).join('\n');
  }
  return { ...run, stdout: printed.join('') };
}

test('clustermesh pki makes, shows, renews and replaces', async (t) => {
  await using dir = await openTempDir('pki');
  const [ca, out] = [dir.file('ca'), dir.file('secrets')];
  t.equal((await pki('init', '--out', ca)).code, 0);
  t.equal((await pki('issue', 'server', 'alpha', '--ca', ca, '--out', out)).code, 0);
  t.equal((await pki('issue', 'node', 'n1', '--ca', ca, '--out', out)).code, 0);
  t.match(await pki('enrollment', '--ca', ca, '--out', out), { code: 0, stdout: /SHA-256/ });
  const enrollment = `${out}/clustermesh-apiserver-enrollment-ca`;
  t.same((await readdir(enrollment)).sort(), ['ca.crt', 'tls.crt', 'tls.key']);

  const shown = await pki('show', ca, out);
  t.equal(shown.code, 0, shown.stdout + shown.stderr);
  t.match(shown.stdout, /^CN=Cilium CA {2}valid until 20.*renewal due/);
  t.match(
    shown.stdout,
    / {2}CN=clustermesh-apiserver\.cilium\.io .*\n.*tls\.crt: shown by gate and/,
  );
  t.match(shown.stdout, / {2}CN=node-n1 .*\n.*agent of node n1/);
  t.match(shown.stdout, /CN=Isthmus enrollment CA .*\n.*the registry signs machines with it/);
  const json = JSON.parse((await pki('show', ca, out, '-o', 'json')).stdout);
  t.equal(json.certificates.length, 1);
  t.equal(json.certificates[0].issued.length, 3);
  t.same(json.problems, []);

  t.match(await pki('renew', out, '--ca', ca), { code: 0, stdout: /renewal due/ });
  const renewed = await pki('renew', out, '--ca', ca, '--all');
  t.equal(renewed.stdout.match(/: renewed, valid until/g)?.length, 3);
  t.match(await pki('renew', ca, '--ca', ca), { code: 1, stderr: /no certificate there/ });

  t.match(await pki('rotate-ca', '--ca', ca), { code: 0, stdout: /nothing is being replaced/ });
  t.match(await pki('rotate-ca', '--ca', ca, '--stage', 'add'), { code: 2 });
  t.match(await pki('rotate-ca', out, '--ca', ca, '--stage', 'remove'), {
    code: 0,
    stdout: /as it should be/,
  });
  t.match(await pki('rotate-ca', out, '--ca', ca, '--stage', 'switch'), {
    code: 1,
    stderr: /do "--stage add" first/,
  });
  t.match(await pki('rotate-ca', out, '--ca', ca, '--stage', 'add'), { stdout: /--stage switch/ });
  t.equal((await pki('issue', 'machine', 'vm1', '--ca', ca, '--out', out)).code, 0);
  t.match(await pki('rotate-ca', out, '--ca', ca, '--stage', 'switch'), {
    stdout: /machine-vm1.*signed by the new authority[\s\S]*--stage remove/,
  });
  t.match(await pki('rotate-ca', out, '--ca', ca, '--stage', 'remove'), { code: 0 });
  const after = JSON.parse((await pki('show', ca, out, '-o', 'json')).stdout);
  t.equal(after.certificates.length, 1);
  t.not(after.certificates[0].fingerprint, json.certificates[0].fingerprint);
});

test('clustermesh pki show warns of what is over, nearly over, and open to others', async (t) => {
  await using dir = await openTempDir('pki');
  const ca = await createCa();
  const now = Date.now();
  const write = async (name: string, leaf: LeafOptions, hours: readonly [number, number]) => {
    const [from, to] = hours.map((hour) => now + hour * HOUR_MS);
    const times = { notBefore: from ?? 0, notAfter: to ?? 0 };
    const pair = await issueCertificate(ca, { ...leaf, ...times });
    return writeSecret(dir.path, name, { ca: ca.root, pair });
  };
  await write('past', nodeLeaf('past'), [-10, -1]);
  await write('ending', nodeLeaf('ending'), [-9, 1]);
  await write('future', nodeLeaf('future'), [1, 10]);
  const { privateKey } = await write('fine', nodeLeaf('fine'), [-1, 9]);
  await chmod(privateKey, 0o644);
  await writeFile(dir.file('broken.crt'), '-----BEGIN CERTIFICATE-----\nMII');
  const { code, stdout } = await pki('show', dir.path);
  t.equal(code, 1);
  for (const words of [
    /warning: CN=node-past, SHA-256 [0-9a-f]{64}: EXPIRED/,
    /warning: CN=node-ending, .*: ENDS/,
    /warning: CN=node-future, .*: NOT VALID before/,
    /warning: .*fine\/tls\.key can be read by others \(mode 644\)/,
    /warning: cannot use .*broken\.crt/,
  ]) {
    t.match(stdout, words);
  }
  t.equal(stdout.match(/warning:/g)?.length, 5, stdout);
  t.match(await pki('show', dir.file('missing')), { code: 1, stderr: /cannot look at .*missing/ });
});

/** A server of HTTP/2 as far as a look goes: it speaks first to whom it takes. */
async function serve(t: Test, options: Parameters<typeof createServer>[0]): Promise<string> {
  const server: Server = createServer(
    { ...options, requestCert: true, rejectUnauthorized: false, ALPNProtocols: ['h2'] },
    (socket) => {
      socket.on('error', () => undefined);
      if (socket.authorized) socket.write('settings');
      else socket.destroy();
    },
  );
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const address = server.address();
  return `127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
}

test('clustermesh pki check gives each fault its own words, with dates and fingerprints', async (t) => {
  await using dir = await openTempDir('pki');
  const [ca, other] = await Promise.all([createCa(), createCa({ commonName: 'another CA' })]);
  await writeCa(dir.file('ca'), ca);
  await writeCa(dir.file('other'), other);
  const now = Date.now();
  const past = { notBefore: now - 2 * HOUR_MS, notAfter: now - HOUR_MS };
  const future = { notBefore: now + HOUR_MS, notAfter: now + 2 * HOUR_MS };
  const server = async (leaf: LeafOptions): Promise<string> => {
    const { certificate, privateKey } = await issueCertificate(ca, leaf);
    return serve(t, { cert: certificate, key: privateKey, ca: ca.root });
  };
  const cases: readonly [string, string, string, RegExp][] = [
    ['good', await server(serverLeaf('alpha')), 'ca', /nothing is wrong/],
    [
      'expired',
      await server({ ...serverLeaf('alpha'), ...past }),
      'ca',
      /server's certificate expired \(CN=.*, SHA-256 [0-9a-f]{64}, valid 20.* to 20.*; the clock here says/,
    ],
    [
      'not yet valid',
      await server({ ...serverLeaf('alpha'), ...future }),
      'ca',
      /server's certificate is not yet valid \(CN=.*SHA-256/,
    ],
    [
      'wrong name',
      await server({ commonName: 'x', usage: 'server', dnsNames: ['x.example'] }),
      'ca',
      /is not for alpha\.mesh\.cilium\.io \(CN=x.*, for DNS:x\.example\)/,
    ],
    [
      'wrong CA',
      await server(serverLeaf('alpha')),
      'other',
      /of an authority that is not trusted \(.*issued by CN=Cilium CA; trusted: CN=another CA, SHA-256 [0-9a-f]{64}/,
    ],
  ];
  const ours = await writeSecret(dir.path, 'ours', {
    ca: ca.root,
    pair: await issueCertificate(ca, machineLeaf('vm1')),
  });
  const show = (files: typeof ours) => ['--cert', files.certificate, '--key', files.privateKey];
  const name = ['--name', 'alpha.mesh.cilium.io'];
  for (const [what, address, trusted, words] of cases) {
    const run = await pki(
      'check',
      address,
      '--ca',
      dir.file(trusted, 'ca.crt'),
      ...name,
      ...show(ours),
    );
    t.match(run.stdout + run.stderr, words, what);
    t.equal(run.code, what === 'good' ? 0 : 1, what);
  }
  const good = cases[0]?.[1] ?? '';
  const foreign = await writeSecret(dir.path, 'foreign', {
    ca: ca.root,
    pair: await issueCertificate(other, remoteLeaf('b')),
  });
  const refused = await pki(
    'check',
    good,
    '--ca',
    dir.file('ca/ca.crt'),
    ...name,
    ...show(foreign),
  );
  t.match(refused, { code: 1, stderr: /does not take our certificate, issued by CN=another CA/ });
  t.match(await pki('check', '127.0.0.1:1', '--ca', dir.file('ca/ca.crt')), { code: 3 });
  t.match(await pki('check', good, '--ca', dir.file('ca/ca.crt'), '--cert', 'x'), { code: 2 });
});
