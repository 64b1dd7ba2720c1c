/** What people get wrong when they join clusters: each mistake is one clear line, and harms nothing that works. */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { removePeer, writePeer } from '../../pki/layout.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { ownConfigFile, peersFolder } from '../lab/certificates.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { curl, exampleTopology, mapsOf, openMesh, urlOf } from './mesh.ts';

const skip = labSkipReason(process.env);
const AGENT = fileURLToPath(new URL('../../agent/main.js', import.meta.url));
const APISERVER = fileURLToPath(new URL('../../clustermesh-apiserver/main.js', import.meta.url));

test('mistakes', { skip, timeout: 240_000 }, async (t) => {
  await using lab = await openMesh(await exampleTopology());
  const node = lab.node('alpha-2');
  const otherManifests = join(node.folder, 'other-manifests');
  await mkdir(otherManifests);
  const agent = lab.agent('alpha-2');
  const peers = peersFolder(node);
  const alpha = lab.certificates.get('alpha')!;
  const beta = lab.certificates.get('beta')!;
  const stranger = await createCa();
  const endpoint = `https://${lab.node('beta-1').addresses[0]}:2379`;
  const before = await mapsOf(lab, 'alpha-2');

  const failureOf = (cluster: string): Promise<string> =>
    lab.waitFor(`the agent to say what is wrong with ${cluster}`, async () => {
      const status = await agent.status();
      const found = status.clusters.find(({ name }) => name === cluster);
      return found !== undefined && 'reason' in found.state && found.state.reason;
    });
  const expectNoHarm = async (t: Test): Promise<void> => {
    t.same(await mapsOf(lab, 'alpha-2'), before, 'maps are as before');
    const status = await agent.status();
    for (const name of ['alpha', 'beta']) {
      t.equal(status.clusters.find((cluster) => cluster.name === name)?.state.kind, 'ready', name);
    }
    t.equal((await curl(lab, 'client', urlOf(lab.pod('web-beta').ip(), 8080))).code, 0);
  };

  const fine = { endpoints: [endpoint], ca: beta.ca.root, client: alpha.remote };
  const peerCases = [
    { what: 'the wrong CA', options: { ...fine, ca: stranger.root }, expected: /certificate/i },
    {
      what: 'a certificate of a CA that beta does not know',
      options: { ...fine, client: await issueCertificate(stranger, remoteLeaf('alpha')) },
      expected: /certificate/i,
    },
    { what: 'a name that is not the cluster behind it', options: fine, expected: /gamma/ },
    {
      what: 'an address where nobody listens',
      options: { ...fine, endpoints: ['https://172.31.0.4:2379'] },
      expected: /172\.31\.0\.4:2379.*check endpoints/,
    },
  ];
  for (const { what, options, expected } of peerCases) {
    await t.test(`a peer file with ${what}`, async (t) => {
      await writePeer(peers, 'gamma', options);
      const reason = await failureOf('gamma');
      t.match(reason, expected);
      t.equal(reason.split('\n').length, 1, 'one line');
      await expectNoHarm(t);
      await removePeer(peers, 'gamma');
      await lab.waitFor('gamma to be forgotten', async () =>
        (await agent.status()).clusters.every(({ name }) => name !== 'gamma'),
      );
    });
  }

  const fileCases = [
    { what: 'half a YAML', text: 'endpoints:\n- "https://', expected: /gamma/ },
    {
      what: 'no certificate',
      text: `endpoints: ["${endpoint}"]\ntrusted-ca-file: /nowhere.crt\n`,
      expected: /gamma/,
    },
  ];
  for (const { what, text, expected } of fileCases) {
    await t.test(`a peer file with ${what}`, async (t) => {
      await writeFile(join(peers, 'gamma'), text);
      const found = await lab.waitFor('the agent to say what is wrong with the file', async () => {
        const { clusters, notes } = await agent.status();
        const gamma = clusters.find(({ name }) => name === 'gamma');
        return gamma?.fileProblem ?? notes.find((note) => note.includes('gamma'));
      });
      t.match(found, expected);
      await expectNoHarm(t);
      await rm(join(peers, 'gamma'));
    });
  }

  const otherBpfRoot = join(lab.plan.bpffs, 'other');
  await mkdir(otherBpfRoot);
  const agentArgs = (changes: Record<string, string>): string[] => {
    const flags: Record<string, string> = {
      'cluster-name': 'alpha',
      'cluster-id': '1',
      'node-name': 'alpha-2',
      'node-ip': String(node.addresses[0]),
      'etcd-config': ownConfigFile(node),
      'bpf-root': node.bpfRoot,
      'cgroup-root': node.cgroup,
      'state-dir': join(node.folder, 'other-state'),
      'socket-path': join(node.folder, 'other.sock'),
      ...changes,
    };
    return [
      process.execPath,
      AGENT,
      'run',
      ...Object.entries(flags).map(([key, value]) => `--${key}=${value}`),
    ];
  };
  const programCases = [
    { what: 'agent: no bpffs', argv: agentArgs({ 'bpf-root': '/tmp' }), expected: /bpf/i },
    {
      what: 'agent: not root',
      argv: [
        'setpriv',
        '--reuid=65534',
        '--clear-groups',
        '--',
        ...agentArgs({
          'state-dir': '/tmp/isthmus-nobody',
          'socket-path': '/tmp/isthmus-nobody.sock',
        }),
      ],
      expected: /root/,
    },
    {
      what: 'agent: no such option',
      argv: [...agentArgs({}), '--no-such-option'],
      expected: /no-such-option/,
    },
    { what: 'agent: bad cluster id', argv: agentArgs({ 'cluster-id': '300' }), expected: /300/ },
    {
      what: 'agent: tunnel port of another device',
      argv: agentArgs({ 'tunnel-device': 'other0', 'bpf-root': otherBpfRoot }),
      expected: /8472/,
    },
    {
      what: 'agent: its maps are in use',
      argv: agentArgs({}),
      expected: /another agent runs here: process \d+ holds/,
    },
    {
      what: 'agent: its socket is taken',
      argv: agentArgs({ 'socket-path': node.socketPath }),
      expected: /another agent answers/,
    },
    {
      what: 'apiserver: another one has these manifests',
      argv: apiserverArgs({ manifests: lab.cluster('alpha').manifests }),
      expected: /another apiserver of cluster alpha with an etcd of its own/,
    },
    {
      what: 'apiserver: no etcd',
      argv: apiserverArgs({ 'etcd-binary': '/nowhere/etcd' }),
      expected: /\/nowhere\/etcd/,
    },
    {
      what: 'apiserver: no certificate',
      argv: apiserverArgs({ 'tls-cert-file': '/nowhere.crt' }),
      expected: /\/nowhere\.crt/,
    },
    {
      what: 'apiserver: bad cluster name',
      argv: apiserverArgs({ 'cluster-name': 'Not A Name' }),
      expected: /Not A Name/,
    },
  ];
  for (const { what, argv, expected } of programCases) {
    await t.test(what, async (t) => {
      // As a user starts it: without what the test runner asks every Node process to load.
      const plain = ['env', '--unset=NODE_OPTIONS', ...argv];
      const { code, stderr, stdout } = await lab.execOnNode('alpha-2', plain, {
        timeoutMs: 20_000,
      });
      t.ok(code > 0 && code < 124, `exit code ${code}`);
      const lines = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
      t.equal(lines.length, 1, `one line: ${stderr}${stdout}`);
      t.match(lines[0], expected);
    });
  }
  await expectNoHarm(t);

  function apiserverArgs(changes: Record<string, string>): string[] {
    const pki = join(lab.cluster('alpha').folder, 'pki', 'clustermesh-apiserver-server-cert');
    const flags: Record<string, string> = {
      'cluster-name': 'alpha',
      'cluster-id': '1',
      manifests: otherManifests,
      'data-dir': join(node.folder, 'other-data'),
      'tls-cert-file': join(pki, 'tls.crt'),
      'tls-key-file': join(pki, 'tls.key'),
      'trusted-ca-file': join(pki, 'ca.crt'),
      ...changes,
    };
    return [
      process.execPath,
      APISERVER,
      ...Object.entries(flags).map(([key, value]) => `--${key}=${value}`),
    ];
  }
});
