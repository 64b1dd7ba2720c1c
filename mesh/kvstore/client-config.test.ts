import { readFile, symlink, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { openTempDir } from '../testing/temp-dir.ts';
import { createTestAuthority } from '../testing/test-certificates.ts';
import { ClientConfigError, readEtcdClientConfig } from './client-config.ts';

test('readEtcdClientConfig() reads what Cilium writes', async (t) => {
  await using dir = await openTempDir('config');
  const files = await (await createTestAuthority(dir)).issue('remote');
  const path = dir.file('beta');
  const text = [
    'endpoints:',
    '- https://beta.mesh.cilium.io:32379',
    '- https://[2001:db8::1]:2379',
    `trusted-ca-file: ${files.caFile}`,
    `key-file: ${files.keyFile}`,
    'cert-file: ca-1.crt',
    'cilium-host-aliases: [{hostname: beta.mesh.cilium.io, ips: [203.0.113.9, "2001:db8::9"]}]',
    'insecure-transport: false',
    '',
  ].join('\n');
  await writeFile(path, text);
  const config = await readEtcdClientConfig(path);
  t.same(config.endpoints, ['https://beta.mesh.cilium.io:32379', 'https://[2001:db8::1]:2379']);
  t.same(config.hostAliases, [
    { hostname: 'beta.mesh.cilium.io', ips: ['203.0.113.9', '2001:db8::9'] },
  ]);
  t.same(config.certificateFiles, [files.caFile, files.certFile, files.keyFile]);
  t.same(config.tls?.ca, await readFile(files.caFile));
  t.same(config.tls?.key, await readFile(files.keyFile));

  const again = await readEtcdClientConfig(path);
  t.equal(again.fingerprint, config.fingerprint, 'nothing changed');
  await writeFile(path, `${text}# a comment\n`);
  t.not((await readEtcdClientConfig(path)).fingerprint, config.fingerprint, 'the file changed');
  await writeFile(path, text);
  const renewed = await (await createTestAuthority(dir, 'new')).issue('remote');
  await writeFile(files.certFile, await readFile(renewed.certFile));
  await writeFile(files.keyFile, await readFile(renewed.keyFile));
  t.not(
    (await readEtcdClientConfig(path)).fingerprint,
    config.fingerprint,
    'the certificate changed',
  );
});

test('readEtcdClientConfig() takes plain endpoints without certificates', async (t) => {
  await using dir = await openTempDir('config');
  await writeFile(dir.file('plain'), 'endpoints: ["http://127.0.0.1:2379"]');
  await symlink('plain', dir.file('link'));
  const config = await readEtcdClientConfig(dir.file('link'));
  t.same(config.endpoints, ['http://127.0.0.1:2379']);
  t.equal(config.tls, undefined);
});

test('readEtcdClientConfig() says in one line what is wrong, and where', async (t) => {
  await using dir = await openTempDir('config');
  const authority = await createTestAuthority(dir);
  const { caFile, certFile, keyFile } = await authority.issue('remote');
  const other = await authority.issue('other');
  await writeFile(dir.file('half.crt'), (await readFile(certFile)).subarray(0, 200));
  const endpoints = 'endpoints: [https://10.0.0.1:2379]';
  const tls = {
    ca: `trusted-ca-file: ${caFile}`,
    cert: `cert-file: ${certFile}`,
    key: `key-file: ${keyFile}`,
  };
  const whole = [endpoints, tls.ca, tls.cert, tls.key];
  const cases: readonly {
    name: string;
    lines: readonly string[];
    code: ClientConfigError['code'];
    field?: string;
    message: RegExp;
  }[] = [
    { name: 'an empty file', lines: [], code: 'bad-yaml', message: /it is empty/ },
    {
      name: 'a half-written file',
      lines: ['endpoints: [https://10.0'],
      code: 'bad-yaml',
      message: /half written/,
    },
    { name: 'a file of another kind', lines: ['hello'], code: 'bad-yaml', message: /no fields/ },
    {
      name: 'a file cut before the certificates',
      lines: [endpoints],
      code: 'bad-field',
      field: 'trusted-ca-file',
      message: /it is missing/,
    },
    {
      name: 'no endpoints',
      lines: whole.slice(1),
      code: 'bad-field',
      field: 'endpoints',
      message: /it is missing/,
    },
    {
      name: 'a list without an endpoint',
      lines: ['endpoints: []', ...whole.slice(1)],
      code: 'bad-field',
      field: 'endpoints',
      message: /at least one URL/,
    },
    {
      name: 'endpoints of a wrong type',
      lines: ['endpoints: https://10.0.0.1:2379', ...whole.slice(1)],
      code: 'bad-field',
      field: 'endpoints',
      message: /it is string/,
    },
    {
      name: 'an endpoint of a wrong type',
      lines: ['endpoints: [https://10.0.0.1:2379, 7]', ...whole.slice(1)],
      code: 'bad-field',
      field: 'endpoints[1]',
      message: /it is number 7/,
    },
    {
      name: 'an endpoint that is no URL',
      lines: ['endpoints: ["10.0.0.1:2379"]', ...whole.slice(1)],
      code: 'bad-field',
      field: 'endpoints[0]',
      message: /expected https:\/\/host:port/,
    },
    {
      name: 'a missing certificate file',
      lines: [endpoints, tls.ca, 'cert-file: /nowhere/tls.crt', tls.key],
      code: 'bad-certificate',
      field: 'cert-file',
      message: /\/nowhere\/tls\.crt/,
    },
    {
      name: 'a certificate file of a wrong type',
      lines: [endpoints, tls.ca, 'cert-file: [a]', tls.key],
      code: 'bad-field',
      field: 'cert-file',
      message: /it is a list/,
    },
    {
      name: 'a half-written certificate',
      lines: [endpoints, tls.ca, 'cert-file: half.crt', tls.key],
      code: 'bad-certificate',
      field: 'cert-file',
      message: /half written/,
    },
    {
      name: 'a key where the CA should be',
      lines: [endpoints, `trusted-ca-file: ${keyFile}`, tls.cert, tls.key],
      code: 'bad-certificate',
      field: 'trusted-ca-file',
      message: /no PEM certificate/,
    },
    {
      name: 'the key of another certificate',
      lines: [endpoints, tls.ca, tls.cert, `key-file: ${other.keyFile}`],
      code: 'bad-certificate',
      field: 'key-file',
      message: /does not belong/,
    },
    {
      name: 'aliases of a wrong type',
      lines: [...whole, 'cilium-host-aliases: yes please'],
      code: 'bad-field',
      field: 'cilium-host-aliases',
      message: /expected a list/,
    },
    {
      name: 'an alias without a host',
      lines: [...whole, 'cilium-host-aliases: [{ips: [10.0.0.1]}]'],
      code: 'bad-field',
      field: 'cilium-host-aliases[0]',
      message: /hostname/,
    },
    {
      name: 'an alias without addresses',
      lines: [...whole, 'cilium-host-aliases: [{hostname: a, ips: []}]'],
      code: 'bad-field',
      field: 'cilium-host-aliases[0]',
      message: /at least one ip/,
    },
    {
      name: 'an alias with a bad address',
      lines: [...whole, 'cilium-host-aliases: [{hostname: a, ips: [10.0.0]}]'],
      code: 'bad-field',
      field: 'cilium-host-aliases[0]',
      message: /expected an IP address/,
    },
    {
      name: 'an alias given twice',
      lines: [
        ...whole,
        'cilium-host-aliases: [{hostname: a, ips: [10.0.0.1]}, {hostname: a, ips: [10.0.0.2]}]',
      ],
      code: 'bad-field',
      field: 'cilium-host-aliases[1]',
      message: /twice/,
    },
  ];
  for (const { name, lines, code, field, message } of cases) {
    const path = dir.file('peer');
    await writeFile(path, lines.join('\n'));
    const error: unknown = await readEtcdClientConfig(path).catch((thrown: unknown) => thrown);
    t.ok(error instanceof ClientConfigError, name);
    t.match(error, { code, field, path, retryable: true, message }, name);
    t.notMatch((error as Error).message, /\n/, `${name}: one line`);
    t.match((error as Error).message, path, `${name}: names the file`);
  }
  await t.rejects(readEtcdClientConfig(dir.file('none')), {
    code: 'unreadable',
    message: /ENOENT/,
  });
  await t.rejects(readEtcdClientConfig(dir.path), { code: 'unreadable', message: /EISDIR/ });
});

test('readEtcdClientConfig() survives every prefix of a good file', async (t) => {
  await using dir = await openTempDir('config');
  const files = await (await createTestAuthority(dir)).issue('remote');
  const text = `endpoints:\n- https://10.0.0.1:2379\ntrusted-ca-file: ${files.caFile}\nkey-file: ${files.keyFile}\ncert-file: ${files.certFile}\n`;
  const path = dir.file('peer');
  let refused = 0;
  for (let length = 0; length < text.length - 1; length += 1) {
    await writeFile(path, text.slice(0, length));
    try {
      await readEtcdClientConfig(path);
    } catch (error) {
      t.ok(error instanceof ClientConfigError, `cut at ${length}`);
      refused += 1;
    }
  }
  t.equal(refused, text.length - 1);
});
