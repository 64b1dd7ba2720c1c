import { writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { decodeDiagnoses } from '../mesh/diagnosis/diagnosis.ts';
import { viewMesh } from '../mesh/diagnosis/mesh-view.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { type AgentReport, encodeAgentReport, type PeerSight } from '../mesh/wire/agent-report.ts';
import { parseClusterId, parseClusterName } from '../mesh/wire/ids.ts';
import { type AgentRow, MESH_STATUS_SCHEMA, type MeshStatus } from '../mesh/wire/mesh-status.ts';
import { troubleshootMethod } from './troubleshoot.ts';

const { signal } = new AbortController();

function sight(changes: Partial<PeerSight> = {}): PeerSight {
  return {
    name: 'beta',
    own: false,
    clusterId: 2,
    state: 'ready',
    since: 0,
    reason: '',
    notes: [],
    counts: { nodes: 1 },
    heldBack: {},
    refused: 0,
    ...changes,
  };
}

function agent(name: string, beta: PeerSight): AgentRow {
  const report: AgentReport = {
    schema: 1,
    kind: 'node',
    name,
    version: '1.0.0',
    startedAt: 0,
    ready: true,
    missing: [],
    notes: [],
    clusters: [beta],
    clustersLeftOut: 0,
    policies: { count: 0, errors: [] },
    pressure: [],
    kernel: [],
    endpoints: 1,
    routingMode: 'tunnel',
  };
  return { kind: 'node', name, session: 'connected', forMs: 1, report: encodeAgentReport(report) };
}

/** An apiserver without a mirror, and agents that read beta themselves. */
async function ask(
  peer: string,
  given: { readonly agents?: readonly AgentRow[]; readonly directory?: string } = {},
) {
  const status: MeshStatus = {
    schema: MESH_STATUS_SCHEMA,
    cluster: { name: 'alpha', id: 1 },
    version: '1.0.0',
    replica: 'r1',
    at: Date.now(),
    mode: 'any-cni',
    apiserver: { ready: true, missing: [], notes: [], kinds: [] },
    etcd: { reachable: true, alarms: [], error: '' },
    certificates: [],
    mirrors: false,
    peers: [],
    findings: [],
    agents: [...(given.agents ?? [])],
  };
  const method = troubleshootMethod({
    own: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
    parts: {},
    directory: given.directory,
    mesh: async () => viewMesh(status),
    clock: systemClock,
  });
  const caller = { by: 'admin', from: '127.0.0.1', to: '127.0.0.1', signal };
  const { json } = (await method({ peer }, caller)) as { json: string };
  return decodeDiagnoses(json);
}

test('an apiserver without a mirror tells what agents see of a peer', async (t) => {
  const failed = sight({ state: 'failed', reason: 'its certificate has expired' });
  const agents = [agent('n1', sight()), agent('n2', failed)];
  const [beta] = await ask('beta', { agents });
  t.match(
    beta?.verdict,
    /^cluster beta does not work because its certificate has expired \(peer-failed\)/,
  );
  t.match(
    beta?.steps.map(({ step, outcome, seen }) => `${step} ${outcome} ${seen[0]}`),
    [
      /^config skipped no file here leads to it/,
      /^reader failed node n2: failed/,
      /^reader passed node n1: ready/,
    ],
  );
  const [fine] = await ask('beta', { agents: [agent('n1', sight())] });
  t.match(fine?.verdict, /works as far as was looked \(not looked at: config\)/);
  const [unknown] = await ask('gamma', { agents });
  t.match(unknown?.verdict, /peers here: beta \(peer-unknown\)/);
});

test('it looks itself where a file leads to the peer', async (t) => {
  await using dir = await openTempDir('troubleshoot');
  await writeFile(dir.file('beta'), 'endpoints: [http://127.0.0.1:1]\n');
  const [beta] = await ask('beta', { directory: dir.path, agents: [agent('n1', sight())] });
  t.match(beta?.verdict, /refuses the connection.*\(peer-port-closed\)/);
  t.ok(beta?.steps.some(({ step, outcome }) => step === 'reader' && outcome === 'passed'));
});

test('without a name it tells of the own cluster first', async (t) => {
  const agents = [{ kind: 'node' as const, name: 'n9', session: 'never', forMs: 0 }];
  const found = await ask('', { agents });
  t.same(
    found.map(({ peer }) => peer),
    ['alpha'],
  );
  t.match(
    found[0]?.verdict,
    /^cluster alpha does not work because .*no agent on it .*\(agent-missing\)/,
  );
  const [named] = await ask('alpha', { agents });
  t.equal(named?.verdict, found[0]?.verdict, 'or when it is named');
});
