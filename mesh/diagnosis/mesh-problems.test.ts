import { test } from 'tap';
import type { AgentReport, PeerSight } from '../wire/agent-report.ts';
import { encodeAgentReport } from '../wire/agent-report.ts';
import {
  type AgentRow,
  decodeMeshStatus,
  encodeMeshStatus,
  type MeshStatus,
} from '../wire/mesh-status.ts';
import { findMeshProblems } from './mesh-problems.ts';
import { isMeshReady, viewMesh } from './mesh-view.ts';
import { PROBLEMS_PAGE, problemOf } from './problem.ts';
import { PROBLEMS } from './problems.ts';

const NOW = Date.parse('2030-01-01T00:00:00Z');
const DAY_MS = 24 * 3_600_000;

function sight(changes: Partial<PeerSight> = {}): PeerSight {
  return {
    name: 'beta',
    own: false,
    clusterId: 2,
    state: 'ready',
    since: NOW - 60_000,
    reason: '',
    notes: [],
    counts: { nodes: 3 },
    heldBack: {},
    refused: 0,
    ...changes,
  };
}

function report(changes: Partial<AgentReport> = {}): AgentReport {
  return {
    schema: 1,
    kind: 'node',
    name: 'n1',
    version: '1.0.0',
    startedAt: NOW - DAY_MS,
    ready: true,
    missing: [],
    notes: [],
    clusters: [sight({ name: 'alpha', own: true, clusterId: 1 }), sight()],
    clustersLeftOut: 0,
    policies: { count: 2, errors: [] },
    pressure: [],
    kernel: [],
    endpoints: 4,
    routingMode: 'tunnel',
    ...changes,
  };
}

function agent(
  name: string,
  changes: Partial<AgentReport> = {},
  row: Partial<AgentRow> = {},
): AgentRow {
  const json = encodeAgentReport(report({ name, ...changes }));
  return { kind: 'node', name, session: 'connected', forMs: 5_000, report: json, ...row };
}

function status(changes: Partial<MeshStatus> = {}): MeshStatus {
  return {
    schema: 1,
    cluster: { name: 'alpha', id: 1 },
    version: '1.0.0',
    replica: 'r1',
    at: NOW,
    mode: 'any-cni',
    apiserver: { ready: true, missing: [], notes: [], kinds: [] },
    etcd: { reachable: true, alarms: [], error: '' },
    certificates: [],
    mirrors: true,
    peers: [sight()],
    findings: [],
    agents: [agent('n1'), agent('n2'), agent('n3')],
    ...changes,
  };
}

function problems(changes: Partial<MeshStatus>): string[] {
  const view = viewMesh(decodeMeshStatus(encodeMeshStatus(status(changes))));
  return findMeshProblems(view).map(({ id, subject, cause }) => `${id} ${subject}: ${cause}`);
}

test('a mesh without problems is ready', (t) => {
  const view = viewMesh(status());
  t.same(findMeshProblems(view), []);
  t.equal(isMeshReady(view), true);
  t.end();
});

const CASES: readonly {
  readonly name: string;
  readonly status: Partial<MeshStatus>;
  readonly expected: readonly RegExp[];
}[] = [
  {
    name: 'a full etcd',
    status: {
      etcd: {
        reachable: true,
        alarms: ['NOSPACE'],
        error: '',
        dbBytes: 2 ** 31,
        quotaBytes: 2 ** 31,
      },
    },
    expected: [/^etcd-full apiserver of alpha: .*no writes .*2048 MiB in use of 2048 MiB/],
  },
  {
    name: 'an etcd that does not answer',
    status: { etcd: { reachable: false, alarms: [], error: 'deadline exceeded' } },
    expected: [/^etcd-unavailable .*deadline exceeded/],
  },
  {
    name: 'a missing definition, and a kind that may not be read (promise 6)',
    status: {
      apiserver: {
        ready: false,
        missing: [],
        notes: [],
        kinds: [
          {
            kind: 'CiliumEndpoint',
            resource: 'ciliumendpoints.cilium.io',
            missing: true,
            unauthorized: false,
            reason: 'there is no such resource',
          },
          {
            kind: 'Pod',
            resource: 'pods',
            missing: false,
            unauthorized: false,
            reason: 'forbidden',
          },
          {
            kind: 'Node',
            resource: 'nodes',
            missing: false,
            unauthorized: true,
            reason: 'a token',
          },
        ],
      },
    },
    expected: [
      /^crd-missing .*CiliumEndpoint .*no such resource/,
      /^source-unreadable .*Pod .*forbidden/,
      /^kubernetes-credentials .*Node .*a token/,
    ],
  },
  {
    name: 'a node without an agent, and one whose agent is gone',
    status: {
      agents: [
        { kind: 'node', name: 'n1', session: 'never', forMs: 0 },
        { kind: 'node', name: 'n2', session: 'gone', forMs: 90_000 },
        { kind: 'machine', name: 'm1', session: 'never', forMs: 0 },
      ],
    },
    expected: [/^agent-missing node n1/, /^agent-silent node n2: .*90 s ago/],
  },
  {
    name: 'a peer that one of three agents cannot read',
    status: {
      mirrors: false,
      peers: [],
      agents: [
        agent('n1'),
        agent('n2', { clusters: [sight({ state: 'failed', reason: 'no route' })] }),
        agent('n3'),
      ],
    },
    expected: [/^peer-failed peer beta: no route \(says node n2; 3 read it\)/],
  },
  {
    name: 'a peer that nobody can read is one problem, not four',
    status: {
      peers: [sight({ state: 'stale', reason: 'silent since 2030-01-01T00:00:01Z' })],
      agents: ['n1', 'n2', 'n3'].map((name) =>
        agent(name, {
          clusters: [sight({ state: 'stale', reason: 'silent since 2030-01-01T00:00:02Z' })],
        }),
      ),
    },
    expected: [/^peer-stale peer beta: silent since \S+$/],
  },
  {
    name: 'what agents say of themselves',
    status: {
      agents: [
        agent('n1', {
          ready: false,
          missing: ['the own cluster is not read'],
          kernel: ['table ipcache: 3 rows cannot be written'],
          policies: { count: 1, errors: ['CiliumNetworkPolicy demo/web: no such port'] },
          pressure: [
            { map: 'mesh_ct', used: 95, size: 100 },
            { map: 'mesh_nat', used: 60, size: 100 },
          ],
        }),
      ],
    },
    expected: [
      /^agent-not-ready node n1: the own cluster/,
      /^kernel-differs node n1: table ipcache/,
      /^policy-errors node n1: .*no such port/,
      /^map-pressure node n1: mesh_ct holds 95 of 100/,
    ],
  },
  {
    name: 'certificates that are late, and over',
    status: {
      certificates: [
        { what: 'server', expiresAt: NOW + DAY_MS, dueAt: NOW - DAY_MS },
        { what: 'authority', expiresAt: NOW + 900 * DAY_MS, dueAt: NOW + 800 * DAY_MS },
      ],
      peers: [sight({ certificateExpiresAt: NOW - 1, certificateDueAt: NOW - DAY_MS })],
    },
    expected: [
      /^certificate-expired peer beta: our certificate for it has expired.*says apiserver/,
      /^certificate-expiring apiserver of alpha: server expires 2030-01-02T00:00/,
    ],
  },
  {
    name: 'agents of another version',
    status: { agents: [agent('n1'), agent('n2', { version: '0.9.0' })] },
    expected: [
      /^version-skew cluster alpha: the apiserver is 1\.0\.0, the agents on n2 are 0\.9\.0/,
    ],
  },
  {
    name: 'what is held back, late, refused, and a clock that is wrong',
    status: {
      agents: [],
      peers: [
        sight({
          heldBack: { ips: 70 },
          lagMs: { p50: 20, p99: 9_000 },
          refused: 4,
          clockWrongByMs: -8_000,
        }),
      ],
    },
    expected: [
      /^peer-clock peer beta: its clock is 8 s behind ours/,
      /^peer-mass-delete-held .*70 ips/,
      /^peer-lag .*9 s/,
      /^peer-addresses-refused .*4 of its/,
    ],
  },
  {
    name: 'what the preflight says of a peer at every look',
    status: { findings: [{ peer: 'gamma', id: 'peer-same-id', cause: 'gamma has id 1' }] },
    expected: [/^peer-same-id peer gamma: gamma has id 1/],
  },
];

for (const { name, status: changes, expected } of CASES) {
  test(`findMeshProblems() tells of ${name}`, (t) => {
    const found = problems(changes);
    t.equal(found.length, expected.length, found.join('\n'));
    for (const [index, pattern] of expected.entries()) t.match(found[index], pattern);
    t.end();
  });
}

test('a report of an agent that reads 500 clusters fits, and its worst clusters are told', (t) => {
  const clusters = Array.from({ length: 500 }, (_, index) =>
    sight({
      name: `cluster-${index}`,
      counts: { nodes: 100, ips: 10_000, identities: 500, services: 200 },
      ...(index % 100 === 7 ? { state: 'failed', reason: 'x'.repeat(2_000) } : {}),
    }),
  );
  const json = encodeAgentReport(report({ clusters, notes: Array(100).fill('y'.repeat(1_000)) }));
  t.ok(Buffer.byteLength(json) <= 48 * 1024, `${Buffer.byteLength(json)} bytes`);
  const failed = JSON.parse(json).clusters.filter(({ state }: PeerSight) => state === 'failed');
  t.equal(failed.length, 5);
  t.equal(JSON.parse(json).clustersLeftOut, 450);
  t.end();
});

test('the next command of a problem can be copied as it is', (t) => {
  const values = { peer: "beta'; rm -rf /" };
  const { nextCommand, docs } = problemOf('peer-failed', { subject: 'peer beta', values });
  t.equal(nextCommand, `clustermesh troubleshoot 'beta'\\''; rm -rf /'`);
  t.equal(docs, `${PROBLEMS_PAGE}#peer-failed`);
  t.equal(
    problemOf('peer-failed', { subject: 'a peer' }).nextCommand,
    'clustermesh troubleshoot <peer>',
  );
  t.end();
});

test('each kind of problem says what is seen, why, what to run and what mends it', (t) => {
  for (const [id, kind] of Object.entries(PROBLEMS)) {
    t.match(id, /^[a-z]+(-[a-z]+)+$/);
    for (const text of [kind.symptom, kind.cause, kind.next, kind.mend]) t.ok(text.length > 3, id);
    t.notMatch(kind.symptom, /\.$/, id);
    t.match(kind.mend, /[.`)]$/, id);
  }
  t.end();
});
