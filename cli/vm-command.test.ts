import { createPublicKey } from 'node:crypto';
import { Readable } from 'node:stream';
import { type Test, test } from 'tap';
import { parse } from 'yaml';
import { openEnrollmentOffice } from '../clustermesh-apiserver/registry/enrollment-office.ts';
import { createNodeBook } from '../clustermesh-apiserver/registry/node-book.ts';
import { createPolicyBoard } from '../clustermesh-apiserver/registry/policy-board.ts';
import { listenRegistry } from '../clustermesh-apiserver/registry/registry.ts';
import {
  callFrom,
  type EnrollmentSite,
  enrollRequest,
  makeMachineKeys,
  openEnrollmentSite,
  renewRequest,
} from '../clustermesh-apiserver/registry/testing/enrollment-site.ts';
import { callUnary } from '../mesh/runtime/grpc-call.ts';
import { clientCredentials } from '../mesh/runtime/grpc-client.ts';
import { etcdSkipReason } from '../mesh/testing/etcd-server.ts';
import { parseEnrollmentToken } from '../mesh/wire/enrollment-token.ts';
import { parseClusterId, parseClusterName } from '../mesh/wire/ids.ts';
import { issueCertificate, issueForKey, type LeafOptions } from '../pki/ca.ts';
import { secretFiles, writeSecret } from '../pki/layout.ts';
import { adminLeaf, machineLeaf, nodeLeaf, SECRET_NAMES } from '../pki/names.ts';
import { vmCommand } from './vm-command.ts';
import { parseLabelChanges } from './vm-label.ts';
import { collectLabels, spanText } from './vm-text.ts';

const skip = etcdSkipReason(process.env);
const ANY = { host: '127.0.0.1', port: 0 };
const ADMIN_SERVICE = 'isthmus.registry.v1.Admin';

/** A registry with everything that administrators ask for, and the command line before it. */
async function openRig(t: Test, site: EnrollmentSite) {
  const ending = new AbortController();
  const { signal } = ending;
  const { store, machines, clock, logger, dir } = site;
  const files = {
    certFile: site.server.certificate,
    keyFile: site.server.privateKey,
    ownCaFile: site.server.ca,
  };
  const office = await openEnrollmentOffice({
    settings: {
      address: { host: '0.0.0.0', port: 0 },
      caCertFile: site.signing.certificate,
      caKeyFile: site.signing.privateKey,
      advertiseGate: [],
      advertiseRegistry: [],
      certificateTtlMs: 3_600_000,
      nodeCertificateTtlMs: 3_600_000,
      serviceAccount: { namespace: undefined, name: 'clustermesh-agent' },
      tunnelPort: 8472,
    },
    labelledMachines: new Set(),
    nodes: { kind: 'not-offered', reason: 'there is no Kubernetes' },
    store,
    machines,
    files,
    cluster: { name: parseClusterName('alpha'), id: parseClusterId(1) },
    maxConnectedClusters: 255,
    clock,
    logger,
    signal,
  });
  const registry = await listenRegistry({
    address: ANY,
    files,
    clusterName: 'alpha',
    book: createNodeBook({
      store,
      publish: () => undefined,
      findConflict: () => undefined,
      graceMs: 60_000,
      clock,
      logger,
    }),
    policies: createPolicyBoard({ store, isHere: () => true, clock, logger }),
    admin: office.admin,
    renewal: office.renewal,
    signal,
    clock,
    logger,
  });
  t.teardown(async () => {
    await registry[Symbol.asyncDispose]();
    await office[Symbol.asyncDispose]();
    ending.abort();
  });
  const { port } = registry.address;
  await writeSecret(dir.path, SECRET_NAMES.admin, {
    ca: site.ca.root,
    pair: await issueCertificate(site.ca, adminLeaf('alpha')),
  });
  /** Runs a command as an administrator; rejects as the program would fail. */
  const vm = async (...args: readonly string[]) => {
    let [out, said, problem] = ['', '', false];
    const command = vmCommand({
      input: Readable.from([]),
      print: (text) => {
        out += text;
      },
      say: (text) => {
        said += text;
      },
      setProblem: () => {
        problem = true;
      },
      signal,
    });
    const place = [
      `--registry=127.0.0.1:${port}`,
      `--certificates=${dir.file(SECRET_NAMES.admin)}`,
    ];
    await command.parseAsync([...args, ...place], { from: 'user' });
    return { out, said, problem };
  };
  return { office, registry, port, vm, signal };
}

test('clustermesh vm: tokens and machines', { skip, timeout: 120_000 }, async (t) => {
  const site = await openEnrollmentSite();
  t.teardown(() => site[Symbol.asyncDispose]());
  const { office, port, vm, signal } = await openRig(t, site);
  const keys = await makeMachineKeys();

  await t.test('before machines can enrol no token is made', async (t) => {
    await t.rejects(vm('token', 'create', '--name=db1'), {
      code: 'problem',
      message: /machines cannot enrol yet/,
    });
    await office.listen({ gate: ANY, registry: { ...ANY, port }, podNetworks: () => [] });
    t.equal((await vm('token', 'list')).out, 'no tokens\n');
    t.equal((await vm('list')).out, 'no machines\n');
  });

  await t.test('a token is one line to paste, and lets in what it says', async (t) => {
    const made = await vm(
      ...['token', 'create', '--name=db1', '--labels=app=db,tier=store', '--namespace=shop'],
      ...['--address-range=192.0.2.0/24', '--address-range=2001:db8::/32', '--ttl=30m'],
    );
    const enrollmentPort = office.status?.address?.port;
    const [, text = '', where] =
      /^echo '(imt1\.[^']+)' \| sudo clustermesh vm join (\S+) --name db1 --token-file -\n$/.exec(
        made.out,
      ) ?? [];
    t.equal(where, `127.0.0.1:${enrollmentPort}`);
    t.match(made.said, /^Paste this line on the machine. Token [0-9a-f]{20} \(db1, one use\)/);
    t.notOk(made.said.includes(text), 'the secret is said once');
    const token = parseEnrollmentToken(text);
    if (token === undefined) throw new Error(`no token: ${text}`);
    const machine = { token, name: 'db1', address: '192.0.2.1', keys };
    t.match(await site.enrollment.enrol(callFrom('192.0.2.1', enrollRequest(machine))), {
      kind: 'enrolled',
      record: { namespace: 'shop', labels: { app: 'db', tier: 'store' } },
    });
    const list = (await vm('token', 'list')).out;
    t.match(list, /^ID +STATE +NAMES +NAMESPACE +LABELS +ADDRESSES +USES LEFT +ENDS +USED BY\n/);
    t.match(
      list,
      /used-up +db1 +shop +app=db,tier=store +192.0.2.0\/24,2001:db8::\/32 +0\/1 +- +db1 \(192.0.2.1\)/,
    );
    t.notOk(list.includes(token.secret.toString('base64url')));
  });

  await t.test('fleets, JSON and YAML, revocation', async (t) => {
    const made = await vm('token', 'create', '--name-pattern=web-*', '--uses=3', '-o', 'json');
    const answer = JSON.parse(made.out) as { id: string; token: string; command: string };
    t.match(answer, { names: 'web-*', usesLeft: 3, state: 'usable', createdBy: 'admin-alpha' });
    t.match(answer.command, /vm join 127\.0\.0\.1:\d+ --token-file -$/, 'each has its own name');
    t.equal(made.said, '');
    const elsewhere = await vm('token', 'create', '--name=x', '--enrollment=mesh.example.com:2382');
    t.match(elsewhere.out, /vm join mesh\.example\.com:2382 --name x /);
    t.match(
      (await vm('token', 'revoke', answer.id)).out,
      /^token \w+ is revoked, nobody used it\n/,
    );
    const tokens = parse((await vm('token', 'list', '-o', 'yaml')).out) as { id: string }[];
    t.match(
      tokens.find(({ id }) => id === answer.id),
      { state: 'revoked', revokedBy: 'admin-alpha' },
    );
    await t.rejects(vm('token', 'revoke', 'nonsense'), {
      code: 'problem',
      message: /no token has the id "nonsense"; see `clustermesh vm token list`/,
    });
    for (const [flags, message] of [
      [[], /give --name for one machine, or --name-pattern/],
      [['--name=a', '--name-pattern=b'], /give --name/],
      [['--name=a*'], /--name a\* is a pattern/],
      [['--name=A'], /names: cannot take "A"/],
      [['--name=a', '--uses=2'], /uses: 2 machines cannot all be called a/],
      [['--name=a', '--labels=io.cilium.k8s.policy.cluster=beta'], /is for the cluster to say/],
      [['--name=a', '--address-range=10.0.0.0/99'], /address ranges/],
    ] as const) {
      await t.rejects(vm('token', 'create', ...flags), { message });
    }
  });

  await t.test('machines are listed, labelled and removed', async (t) => {
    const listed = await vm('list');
    t.match(listed.out, /^NAME +STATE +FOR +NAMESPACE +ADDRESSES +LABELS +VERSION\n/);
    t.match(listed.out, /\ndb1 +enrolled +\d+s +shop +- +app=db,tier=store +1\.2\.3\n/);
    const labelled = await vm('label', 'db1', 'app=cache', 'tier-', '-o', 'json');
    t.match(JSON.parse(labelled.out), { labels: { app: 'cache' } });
    t.same(site.machines.get('db1')?.record.labels, { app: 'cache' });
    const status = await vm('status', 'db1');
    t.match(status.out, /^db1\n +state +enrolled for /);
    t.match(status.out, /labels +app=cache\n/);
    t.ok(status.problem, 'it has no session');
    await t.rejects(vm('status', 'db2'), { message: /no machine is called "db2"/ });
    await t.rejects(vm('label', 'db1', 'app'), { code: 'usage' });
    await t.rejects(vm('label', 'db1', 'io.kubernetes.pod.namespace=kube-system'), {
      message: /is for the cluster to say/,
    });
    const removed = await vm('remove', 'db1');
    t.equal(removed.out, 'machine db1 is removed\n');
    t.equal(removed.said, '', 'its token is used up');
    t.equal(site.machines.get('db1')?.record.removedAt === undefined, false);
    t.match(
      site.lines.join(''),
      /"machine":"db1","by":"admin-alpha","from":"127.0.0.1".*was removed/,
    );
  });

  await t.test(
    'nobody but an administrator of this cluster asks, nobody but a machine renews',
    async (t) => {
      const ask = async (
        { service, method }: { service: string; method: string },
        tls: { readonly certificate: string; readonly privateKey: string },
        request: object = {},
      ) => {
        const material = {
          ca: Buffer.from(site.ca.root),
          cert: Buffer.from(tls.certificate),
          key: Buffer.from(tls.privateKey),
        };
        return callUnary({ proto: 'mesh/wire/registry.proto', service, method }, request, {
          server: { host: '127.0.0.1', port },
          credentials: clientCredentials(material, 'alpha.mesh.cilium.io'),
          tlsName: 'alpha.mesh.cilium.io',
          timeoutMs: 20_000,
          signal,
        });
      };
      const leaves: readonly LeafOptions[] = [
        nodeLeaf('n1'),
        machineLeaf('vm1'),
        adminLeaf('beta'),
        { commonName: 'local-alpha', usage: 'client' },
        { commonName: 'remote-beta', usage: 'client' },
      ];
      for (const leaf of leaves) {
        const pair = await issueCertificate(site.ca, leaf);
        for (const method of ['CreateToken', 'ListTokens', 'RemoveMachine']) {
          await t.rejects(
            ask({ service: ADMIN_SERVICE, method }, pair),
            { code: 'refused', message: /is not of an administrator/ },
            leaf.commonName,
          );
        }
      }
      // The authority of enrollment cannot make administrators, whoever has its key.
      const admin = await issueCertificate(site.ca, adminLeaf('alpha'));
      const { privateKey } = admin;
      const publicKey = createPublicKey(privateKey);
      const forged = site.authority.issue({
        commonName: 'admin-alpha',
        publicKey,
        notAfter: Date.now() + 3_600_000,
      });
      await t.rejects(
        ask({ service: ADMIN_SERVICE, method: 'ListTokens' }, { ...forged, privateKey }),
      );
      await ask({ service: ADMIN_SERVICE, method: 'ListTokens' }, admin);
      const renew = { service: 'isthmus.registry.v1.Registry', method: 'Renew' };
      await t.rejects(ask(renew, admin, renewRequest('admin-alpha', keys)), {
        message: /"admin-alpha" is not of a machine/,
      });
      await t.rejects(
        ask(
          renew,
          {
            certificate: issueForKey(site.ca, { ...machineLeaf('db1'), publicKey }),
            privateKey,
          },
          renewRequest('machine-db1', keys),
        ),
        { message: /machine db1 was removed/ },
      );
    },
  );
});

test('labels and times as people write and read them', (t) => {
  t.same(parseLabelChanges(['a=b', 'c-', 'd=', 'x/y=z']), {
    set: { a: 'b', d: '', 'x/y': 'z' },
    remove: ['c'],
  });
  for (const bad of ['a', '=b', '', '-'])
    t.throws(() => parseLabelChanges([bad]), { code: 'usage' });
  t.throws(() => parseLabelChanges(['a=b', 'a-']), { message: /both given and taken away/ });
  t.same(collectLabels('a=b,c=', { z: '1' }), { a: 'b', c: '', z: '1' });
  t.throws(() => collectLabels('a=b,c', {}));
  t.same([0, 119_000, 121_000, 7_200_000, 200_000_000].map(spanText), [
    '0s',
    '119s',
    '2m',
    '2h0m',
    '2d7h',
  ]);
  t.end();
});

test('files of an administrator that are not there', async (t) => {
  const files = secretFiles('/nowhere', 'x');
  const command = vmCommand({
    input: Readable.from([]),
    print: () => undefined,
    say: () => undefined,
    setProblem: () => undefined,
    signal: new AbortController().signal,
  });
  await t.rejects(
    command.parseAsync(['list', '--registry=127.0.0.1:1', '--certificates=/nowhere/x'], {
      from: 'user',
    }),
    { code: 'usage', message: new RegExp(`cannot read ${files.ca}`) },
  );
});
