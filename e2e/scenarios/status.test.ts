/**
 * What people are told of a whole mesh, by real programs and packets: `status` of one that is healthy and of one with parts
 * missing, and `troubleshoot` of one whose packets are lost.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Test, test } from 'tap';
import { z } from 'zod';
import { decodeDiagnoses } from '../../mesh/diagnosis/diagnosis.ts';
import type { ProblemId } from '../../mesh/diagnosis/problems.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { peersFolder } from '../lab/certificates.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { asAdministrator, openVmLab, vmTopology } from './vm-lab.ts';

const run = promisify(execFile);
const skip = labSkipReason(process.env);
const CLI = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
/** What people are promised, and the start of the program on a machine that is busy. */
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

/** What the agent of a node says of beta: the id in the verdict, or the verdict. */
async function troubleshoot(
  lab: Lab,
  node: string,
): Promise<{ readonly id: string; readonly verdict: string; readonly tookMs: number }> {
  const began = performance.now();
  const { stdout, stderr } = await lab.execOnNode(node, [
    ...[process.execPath, CLI, 'troubleshoot', 'beta', '-o', 'json'],
    ...['--socket-path', lab.node(node).socketPath],
  ]);
  const tookMs = performance.now() - began;
  const [diagnosis] = stdout === '' ? [] : decodeDiagnoses(stdout);
  const verdict = diagnosis?.verdict ?? stderr;
  return { id: /\(([a-z-]+)\)$/.exec(verdict)?.[1] ?? verdict, verdict, tookMs };
}

test('people are told of the whole mesh', { skip, timeout: 400_000 }, async (t) => {
  const topology = vmTopology();
  const [db] = topology.machines ?? [];
  const lab = await openVmLab({ ...topology, machines: [db!] });
  t.teardown(() => lab[Symbol.asyncDispose]());
  const ask = async (...flags: string[]) => {
    const { code, stdout, stderr } = await asAdministrator(lab, 'alpha', ['status', ...flags]);
    return { code, stdout, stderr };
  };
  const look = async (...flags: string[]): Promise<z.infer<typeof statusSchema>> =>
    statusSchema.parse(JSON.parse((await ask('-o', 'json', ...flags)).stdout));
  const named = async (t: Test, id: ProblemId, words: RegExp): Promise<void> => {
    const found = await troubleshoot(lab, 'alpha-1');
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
    const text = await ask();
    t.equal(text.code, 0);
    t.match(text.stdout, /ClusterMesh: 1\/1 remote clusters ready/);
    t.match(text.stdout, /no problems/);
    t.notOk(text.stdout.includes('\u001b'), 'no colours where nobody looks');
    const { verdict, tookMs } = await troubleshoot(lab, 'alpha-1');
    t.match(verdict, /^cluster beta works as far as was looked/);
    t.ok(tookMs < PROMISED_MS, `it took ${Math.round(tookMs)} ms`);
    const fromApiserver = await asAdministrator(lab, 'alpha', ['troubleshoot', 'beta']);
    t.match(fromApiserver.stdout, /verdict: cluster beta works as far as was looked/);
    t.equal(fromApiserver.code, 0);
    const unknown = await asAdministrator(lab, 'alpha', ['troubleshoot', 'gamma']);
    t.match(unknown.stdout, /peers here: beta\n(.*\n)*verdict: .*\(peer-unknown\)/);
    t.equal(unknown.code, 1);
  });
  await t.test('a sysdump has everything but secrets', async (t) => {
    await using dir = await openTempDir('sysdump');
    const archive = dir.file('dump.tar.gz');
    const flags = ['--socket-path', lab.node('alpha-1').socketPath, '--output-file', archive];
    const { code, stdout, stderr } = await asAdministrator(lab, 'alpha', ['sysdump', ...flags]);
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
    ]) {
      t.ok(names.includes(name), name);
    }
    for (const file of files) {
      const text = await readFile(file, 'utf8');
      t.notMatch(text, /PRIVATE KEY|imt\d\.[0-9a-f]{20}\.|eyJ[\w-]{8,}\.[\w-]{8,}\./, file);
    }
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
  await t.test('a file that leads to the wrong cluster', async (t) => {
    const folder = peersFolder(lab.node('alpha-1'));
    await writeFile(join(folder, 'gamma'), await readFile(join(folder, 'beta')));
    const { stdout } = await asAdministrator(lab, 'alpha', ['troubleshoot', 'gamma']);
    t.match(stdout, /endpoint is that of cluster beta, not of gamma \(peer-wrong-cluster\)/);
    await rm(join(folder, 'gamma'));
  });
  // From here on the mesh stays broken: what follows needs less and less of it.
  await t.test('half connected: the peer does not trust us any more', async (t) => {
    const trust = join(lab.cluster('beta').folder, 'peer-trust', 'alpha.crt');
    await rm(trust);
    await lab.waitFor('beta to refuse alpha', async () => {
      const { id } = await troubleshoot(lab, 'alpha-1');
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
    const late = await ask('--wait', '--wait-duration=1s');
    t.equal(late.code, 124);
    t.match(late.stderr, /not ready after 1 s: \S+/);
    const fromNode = await lab.execOnNode('alpha-1', [
      ...[process.execPath, CLI, 'troubleshoot', 'beta'],
      ...['--socket-path', lab.node('alpha-1').socketPath],
    ]);
    t.equal(fromNode.code, 3);
  });
});
