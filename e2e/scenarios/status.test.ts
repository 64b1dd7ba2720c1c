/**
 * What people are told of a whole mesh, by real programs and packets: `status` of one that is healthy and of one with parts
 * missing, and `troubleshoot` of one whose packets are lost.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Test, test } from 'tap';
import { z } from 'zod';
import { runCli } from '../../cli/testing/cli-run.ts';
import { decodeChecks } from '../../mesh/diagnosis/check.ts';
import { type DiagnosisStep, decodeDiagnoses } from '../../mesh/diagnosis/diagnosis.ts';
import type { ProblemId } from '../../mesh/diagnosis/problems.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { formatEnrollmentToken } from '../../mesh/wire/enrollment-token.ts';
import { pkiFolder } from '../lab/certificates.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import {
  asAdministrator,
  NAMESPACE,
  openVmLab,
  PORT,
  policyFor,
  those,
  vmTopology,
} from './vm-lab.ts';

const run = promisify(execFile);
const skip = labSkipReason(process.env);
/** A Service at whose port nobody listens. */
const UNSERVED = {
  name: 'unserved',
  namespace: NAMESPACE,
  selector: { app: 'friend' },
  annotations: { 'service.cilium.io/global': 'true' },
  ports: [{ name: 'http', port: 80, targetPort: PORT + 1 }],
};
/** What people are promised, and what a machine adds that is busy with other tests. */
const PROMISED_MS = 15_000 + 5_000;

const statusSchema = z.looseObject({
  ready: z.boolean(),
  peers: z.array(
    z.looseObject({
      name: z.string(),
      state: z.string(),
      counts: z.record(z.string(), z.number()),
      readers: z.array(z.object({ from: z.string(), state: z.string() })),
    }),
  ),
  agents: z.array(
    z.looseObject({
      kind: z.string(),
      name: z.string(),
      session: z.string(),
      report: z.looseObject({ ready: z.boolean(), endpoints: z.number() }).optional(),
    }),
  ),
  problems: z.array(
    z.looseObject({
      id: z.string(),
      severity: z.string(),
      subject: z.string(),
      cause: z.string(),
      nextCommand: z.string(),
      docs: z.string(),
    }),
  ),
});

/** What an agent says of a peer. */
interface Found {
  /** The id in the verdict, or the verdict. */
  readonly id: string;
  readonly verdict: string;
  readonly steps: readonly DiagnosisStep[];
  readonly code: number;
  readonly tookMs: number;
}

/** What the agents of nodes, that of the first first, say of beta: the command in this process, over the agents' sockets. */
async function troubleshoot(
  lab: Lab,
  nodes: readonly [string, ...string[]],
  flags: readonly string[] = [],
): Promise<Found> {
  const began = performance.now();
  const sockets = nodes.map((node) => lab.node(node).socketPath);
  const { stdout, stderr, code } = await runCli([
    ...['troubleshoot', 'beta', '-o', 'json', ...flags],
    ...['--socket-path', ...sockets],
  ]);
  const tookMs = performance.now() - began;
  const [diagnosis] = stdout === '' ? [] : decodeDiagnoses(stdout);
  const verdict = diagnosis?.verdict ?? stderr;
  const id = /\(([a-z-]+)\)$/.exec(verdict)?.[1] ?? verdict;
  return { id, verdict, steps: diagnosis?.steps ?? [], code, tookMs };
}

/** Puts a `journalctl` into `bin` that prints keys of the lab, a token, a password and a passphrase; returns what must not be found. */
async function plantSecrets(lab: Lab, dir: TempDir): Promise<readonly string[]> {
  const pki = pkiFolder(lab.cluster('alpha'));
  const names = (await readdir(pki, { recursive: true })).filter((name) => /\.key$/.test(name));
  const keys = await Promise.all(names.map((name) => readFile(join(pki, name), 'utf8')));
  const token = formatEnrollmentToken({
    id: 'ab'.repeat(10),
    secret: randomBytes(32),
    anchor: randomBytes(32),
  });
  const words = randomBytes(12).toString('hex');
  const lines = [
    'begins here',
    ...keys,
    JSON.stringify({ msg: 'read', key: keys[0] }),
    `clustermesh vm join alpha:2382 --token ${token}`,
    `backup with passphrase: "${words} and more"`,
    JSON.stringify({ config: JSON.stringify({ username: 'root', password: words }) }),
    `dialling https://root:${words}@192.0.2.1:2379`,
    `authorization: Bearer ${words}`,
    'ends here',
  ];
  await mkdir(dir.file('bin'));
  await writeFile(dir.file('log'), `${lines.join('\n')}\n`);
  const program = dir.file('bin/journalctl');
  await writeFile(program, `#!/bin/sh\nexec cat '${dir.file('log')}'\n`, { mode: 0o755 });
  // Each key is in the log twice, its lines ended by characters in one and by words in the other.
  const parts = keys.flatMap((key) =>
    key.split('\n').filter((line) => /^[\w+/=]{40,}$/.test(line)),
  );
  return [...parts, token.split('.')[2] ?? token, words];
}

test('people are told of the whole mesh', { skip, timeout: 400_000 }, async (t) => {
  const topology = vmTopology();
  const [db] = topology.machines ?? [];
  const lab = await openVmLab({
    ...topology,
    machines: [db!],
    services: [...(topology.services ?? []), UNSERVED],
  });
  t.teardown(() => lab[Symbol.asyncDispose]());
  const ask = async (...flags: string[]) => {
    const { code, stdout, stderr } = await asAdministrator(lab, 'alpha', ['status', ...flags]);
    return { code, stdout, stderr };
  };
  const look = async (...flags: string[]): Promise<z.infer<typeof statusSchema>> =>
    statusSchema.parse(JSON.parse((await ask('-o', 'json', ...flags)).stdout));
  const named = async (t: Test, id: ProblemId, words: RegExp): Promise<void> => {
    const found = await troubleshoot(lab, ['alpha-1']);
    t.equal(found.id, id, found.verdict);
    t.match(found.verdict, words);
    t.ok(found.tookMs < PROMISED_MS, `it took ${Math.round(found.tookMs)} ms`);
  };
  const onNode = async (node: string, ...argv: string[]): Promise<void> => {
    const { code, stderr } = await lab.execOnNode(node, argv);
    if (code !== 0) throw new Error(`${argv.join(' ')}: ${stderr}`);
  };

  await t.test('a mesh that works', async (t) => {
    const status = await look('--wait', '--wait-duration=60s');
    t.equal(status.ready, true);
    t.match(status.peers, [{ name: 'beta', state: 'ready', counts: { nodes: 1 } }]);
    t.same(status.peers[0]?.readers.map(({ from, state }) => `${from} ${state}`).sort(), [
      'apiserver ready',
      'machine db ready',
      'node alpha-1 ready',
    ]);
    t.match(status.agents, [
      {
        kind: 'node',
        name: 'alpha-1',
        session: 'connected',
        report: { ready: true, endpoints: 2 },
      },
      { kind: 'machine', name: 'db', session: 'connected', report: { ready: true } },
    ]);
    t.same(status.problems, []);
    const [text, fromApiserver, check, found] = await Promise.all([
      ask(),
      asAdministrator(lab, 'alpha', ['troubleshoot', 'beta']),
      runCli(['check', '-o', 'json', '--socket-path', lab.node('alpha-1').socketPath]),
      troubleshoot(lab, ['alpha-1', 'beta-1'], ['--service', 'shop/web']),
    ]);
    t.equal(text.code, 0);
    t.match(text.stdout, /ClusterMesh: 1\/1 remote clusters ready/);
    t.match(text.stdout, /no problems/);
    t.notOk(text.stdout.includes('\u001b'), 'no colours where nobody looks');
    const { verdict, tookMs, steps } = found;
    t.equal(found.code, 0, 'nobody is asked for his own cluster');
    t.match(verdict, /^cluster beta works as far as was looked/);
    t.ok(tookMs < PROMISED_MS, `it took ${Math.round(tookMs)} ms`);
    t.same(
      steps.slice(-8).map(({ step, outcome }) => `${step} ${outcome}`),
      [
        'underlay passed',
        'tunnel passed',
        'mtu passed',
        'pod passed',
        'service passed',
        'call passed',
        'policy passed',
        'peer-policy passed',
      ],
    );
    t.match(steps.at(-1)?.seen[0], /ingress at beta is allowed, no policy closes this direction/);
    t.match(fromApiserver.stdout, /verdict: cluster beta works as far as was looked/);
    t.equal(fromApiserver.code, 0);
    const checks = decodeChecks(check.stdout).filter(({ section }) =>
      ['agent', 'clusters', 'services'].includes(section),
    );
    t.same(
      checks.flatMap(({ problem }) => problem ?? []),
      [],
    );
    t.ok(checks.some(({ title }) => title === 'cluster beta is read'));
    t.match(checks.at(-1)?.title, /translates Services: all \(nothing of a kube-proxy was found/);
  });
  await t.test('a sysdump has everything but secrets', async (t) => {
    await using dir = await openTempDir('sysdump');
    const archive = dir.file('dump.tar.gz');
    // An agent that is down as well, and a log in which somebody has written everything that must not leave the host.
    const sockets = [lab.node('alpha-1').socketPath, dir.file('nobody.sock')];
    const secrets = await plantSecrets(lab, dir);
    const { code, stdout, stderr } = await asAdministrator(
      lab,
      'alpha',
      ['sysdump', '--socket-path', ...sockets, '--output-file', archive],
      { env: { PATH: `${dir.file('bin')}:${process.env.PATH}` } },
    );
    t.equal(code, 0, stderr);
    t.match(stdout, /dump\.tar\.gz: \d+ parts/);
    await run('tar', ['--extract', '--gzip', `--file=${archive}`, `--directory=${dir.path}`]);
    const files = (await readdir(dir.file('sysdump'), { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));
    const names = files.map((file) => file.slice(dir.file('sysdump/').length));
    for (const name of [
      'contents.json',
      'mesh/mesh-status.json',
      'mesh/mesh-troubleshoot.json',
      'agents/1/status.json',
      'agents/1/map-ipcache.json',
      'agents/1/metrics.json',
      'host/addresses.txt',
      'host/agent.log',
    ]) {
      t.ok(names.includes(name), name);
    }
    const contents = JSON.parse(await readFile(dir.file('sysdump/contents.json'), 'utf8'));
    t.match(
      contents.find(({ name }: { name: string }) => name === 'agents/2/status.json'),
      { missing: /cannot reach the agent on .*nobody\.sock/ },
    );
    const log = await readFile(dir.file('sysdump/host/agent.log'), 'utf8');
    t.match(log, /^begins here\n[\s\S]*\nends here\n$/, 'what is no secret stays');
    for (const file of files) {
      const text = await readFile(file, 'utf8');
      t.same(
        secrets.filter((secret) => text.includes(secret)),
        [],
        file,
      );
      t.notMatch(text, /PRIVATE KEY|imt\d\.[0-9a-f]{20}\.|eyJ[\w-]{8,}\.[\w-]{8,}\./, file);
    }
  });
  await t.test('a Service, and policies of either cluster', async (t) => {
    const agents = ['alpha-1', 'beta-1'] as const;
    const web = ['--service', 'shop/web', '--from', 'shop/client'];
    const untilNamed = (id: ProblemId): Promise<Found> =>
      lab.waitFor(`${id} to be named`, async () => {
        const found = await troubleshoot(lab, ['alpha-1'], web);
        return found.id === id && found;
      });
    const unserved = await troubleshoot(lab, ['alpha-1'], ['--service', 'shop/unserved']);
    t.equal(unserved.id, 'service-refused', unserved.verdict);
    t.equal(unserved.code, 1);
    await lab
      .apiserver('beta')
      .manifests.write(policyFor('web', { ingress: [{ fromEndpoints: [those('friend')] }] }));
    const silent = await untilNamed('service-silent');
    t.match(
      silent.verdict,
      /nothing comes back from \S+ 8080 of cluster beta, policies here allow it/,
    );
    t.match(
      silent.steps.find(({ step }) => step === 'peer-policy'),
      {
        outcome: 'skipped',
        seen: [
          /run `clustermesh policy trace --from \S+ --to \S+ --port 8080\/TCP` on one of its nodes/,
        ],
      },
    );
    t.ok(silent.tookMs < PROMISED_MS, `it took ${Math.round(silent.tookMs)} ms`);
    const pair = ['--from', 'shop/client', '--to', 'shop/web-beta', '--port', String(PORT)];
    const both = await troubleshoot(lab, agents, pair);
    t.match(
      both.verdict,
      /^traffic from \S+ to \S+ 8080\/TCP does not work because policies of cluster beta deny ingress .* closed by CiliumNetworkPolicy shop\/web \(policy-denies\)/,
    );
    // It stays, as what follows is worse.
    await lab
      .apiserver('alpha')
      .manifests.write(policyFor('client', { egress: [{ toEndpoints: [those('web', 'alpha')] }] }));
    t.match(
      (await untilNamed('policy-denies')).verdict,
      /policies of cluster alpha deny egress .* CiliumNetworkPolicy shop\/client/,
    );
  });
  await t.test('UDP 8472 is blocked', async (t) => {
    const rule = ['-p', 'udp', '--dport', '8472', '-j', 'DROP'];
    await onNode('beta-1', 'iptables', '-A', 'INPUT', ...rule);
    await named(t, 'vxlan-blocked', /node 172\.\S+, which itself answers: UDP 8472/);
    await onNode('beta-1', 'iptables', '-D', 'INPUT', ...rule);
  });
  await t.test('a way that is narrower than the nodes think', async (t) => {
    // As a router on the way does that cuts nothing and says nothing.
    const rule = [
      '-p',
      'udp',
      '--dport',
      '8472',
      '-m',
      'length',
      '--length',
      '1400:65535',
      '-j',
      'DROP',
    ];
    await onNode('beta-1', 'iptables', '-A', 'INPUT', ...rule);
    await named(
      t,
      'mtu-small',
      /packets of 1430 bytes do not arrive .* largest that was seen to arrive is 1\d\d\d bytes/,
    );
    await onNode('beta-1', 'iptables', '-D', 'INPUT', ...rule);
  });
  await t.test('its node is cut off, its gate with it', async (t) => {
    await onNode('beta-1', 'iptables', '-A', 'INPUT', '-j', 'DROP');
    await named(t, 'peer-filtered', /nothing answers at 172\.\S+:2379/);
    await onNode('beta-1', 'iptables', '-D', 'INPUT', '-j', 'DROP');
  });
  // From here on the mesh stays broken: what follows needs less and less of it.
  await t.test('half connected: the peer does not trust us any more', async (t) => {
    const trust = join(lab.cluster('beta').folder, 'peer-trust', 'alpha.crt');
    await rm(trust);
    await lab.waitFor('beta to refuse alpha', async () => {
      const { id } = await troubleshoot(lab, ['alpha-1']);
      return id === 'own-certificate-refused';
    });
    await named(t, 'own-certificate-refused', /does not trust that authority for us/);
  });
  await t.test("the peer's apiserver is down", async (t) => {
    await lab.apiserver('beta').kill();
    await named(t, 'peer-port-closed', /refuses the connection/);
  });
  await t.test('an agent is down', async (t) => {
    await lab.agent('alpha-1').kill();
    const gone = await lab.waitFor('the agent to be missed', async () => {
      const status = await look();
      return status.problems.some(({ id }) => id === 'agent-silent') ? status : undefined;
    });
    t.equal(gone.ready, false);
    t.match(
      gone.problems.find(({ id }) => id === 'agent-silent'),
      { subject: 'node alpha-1', severity: 'error', docs: 'docs/troubleshooting.md#agent-silent' },
    );
    const own = await asAdministrator(lab, 'alpha', ['troubleshoot', 'alpha', '-o', 'json']);
    t.match(
      decodeDiagnoses(own.stdout)[0]?.verdict,
      /^cluster alpha does not work because .*\(agent-silent\)$/,
    );
    const late = await ask('--wait', '--wait-duration=1s');
    t.equal(late.code, 124);
    t.match(late.stderr, /not ready after 1 s: \S+/);
    const fromNode = await troubleshoot(lab, ['alpha-1']);
    t.equal(fromNode.code, 3);
  });
});
