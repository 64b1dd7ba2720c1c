/** What is wrong with a mesh, from what one of its clusters says. Pure. */
import type { AgentReport, PeerSight } from '../wire/agent-report.ts';
import type { MeshStatus } from '../wire/mesh-status.ts';
import type { MeshAgent, MeshView, PeerReader } from './mesh-view.ts';
import { bySeverity, type Problem, problemOf } from './problem.ts';
import { isProblemId, type ProblemId } from './problems.ts';

/** Changes of a peer that take longer than this are late, in milliseconds. */
const LATE_MS = 5_000;
/** A table that is fuller than this is nearly full. */
const NEARLY_FULL = 0.9;
/** Readers that a sentence names. */
const MOST_NAMED = 3;

/** Everything that somebody should look at, errors first. */
export function findMeshProblems(view: MeshView): Problem[] {
  const { status, now } = view;
  return bySeverity([
    ...apiserverProblems(status),
    ...status.findings.flatMap(({ peer, id, cause }) =>
      isProblemId(id) ? [problemOf(id, { subject: `peer ${peer}`, cause, values: { peer } })] : [],
    ),
    ...view.peers.flatMap(({ name, readers }) => peerProblems(name, readers, now)),
    ...restOfCluster(view),
  ]);
}

/** What of it is of the cluster itself, its peers left out. */
export function findOwnProblems(view: MeshView): Problem[] {
  return bySeverity([...apiserverProblems(view.status), ...restOfCluster(view)]);
}

function restOfCluster(view: MeshView): Problem[] {
  const { status, now } = view;
  return [
    ...status.certificates.flatMap((certificate) => {
      const { what, expiresAt, dueAt } = certificate;
      return expiryProblems(`apiserver of ${status.cluster.name}`, { what, expiresAt, dueAt, now });
    }),
    ...view.agents.flatMap(agentProblems),
    ...versionProblems(view),
  ];
}

function apiserverProblems({ cluster, apiserver, etcd }: MeshStatus): Problem[] {
  const subject = `apiserver of ${cluster.name}`;
  const problems: Problem[] = [];
  const add = (id: ProblemId, cause: string, values: Record<string, string> = {}): void => {
    problems.push(problemOf(id, { subject, cause, values }));
  };
  if (etcd?.reachable === false) add('etcd-unavailable', `its etcd does not answer: ${etcd.error}`);
  if (etcd?.alarms.includes('NOSPACE') === true) {
    const size = etcd.dbBytes === undefined ? '' : ` (${mebibytes(etcd.dbBytes)} in use`;
    const quota = etcd.quotaBytes === undefined ? '' : ` of ${mebibytes(etcd.quotaBytes)}`;
    add(
      'etcd-full',
      `its etcd takes no writes for want of space${size}${size === '' ? '' : `${quota})`}`,
    );
  }
  for (const { kind, resource, missing, unauthorized, reason } of apiserver.kinds) {
    const cause = `${kind} cannot be read: ${reason}`;
    if (missing) add('crd-missing', cause, resource === '' ? {} : { crd: resource });
    else if (unauthorized) add('kubernetes-credentials', cause);
    else add('source-unreadable', cause, { kind: resource || kind });
  }
  for (const cause of apiserver.missing) add('apiserver-not-ready', cause);
  for (const cause of apiserver.notes) add('apiserver-note', cause);
  return problems;
}

/** Of one peer, by all who read it: each problem once, with who has it. */
function peerProblems(name: string, readers: readonly PeerReader[], now: number): Problem[] {
  const found = new Map<string, { readonly problem: Problem; readonly at: PeerReader[] }>();
  for (const reader of readers) {
    for (const problem of sightProblems(name, reader.sight, now)) {
      const key = `${problem.id} ${withoutTimes(problem.cause)}`;
      const known = found.get(key) ?? { problem, at: [] };
      known.at.push(reader);
      found.set(key, known);
    }
  }
  return [...found.values()].map(({ problem, at }) => {
    if (at.length === readers.length) return problem;
    const names = at.slice(0, MOST_NAMED).map(({ from }) => from);
    const more = at.length > names.length ? ` and ${at.length - names.length} more` : '';
    return {
      ...problem,
      cause: `${problem.cause} (says ${names.join(', ')}${more}; ${readers.length} read it)`,
    };
  });
}

/** What is wrong with a peer as one reader sees it. */
export function sightProblems(name: string, sight: PeerSight, now: number): Problem[] {
  const subject = sight.own ? `own cluster ${name}` : `peer ${name}`;
  const values = { peer: name };
  const make = (id: ProblemId, cause: string): Problem => problemOf(id, { subject, cause, values });
  const problems: Problem[] = [];
  const stateId = STATE_PROBLEMS[sight.state];
  if (stateId !== undefined) problems.push(make(stateId, sight.reason || `it is ${sight.state}`));
  else if (sight.state !== 'ready')
    problems.push(make('peer-not-ready', sight.reason || `it is ${sight.state}`));
  for (const { code, message } of sight.notes)
    problems.push(make(NOTE_PROBLEMS[code] ?? 'peer-note', message));
  const held = Object.entries(sight.heldBack);
  if (held.length > 0) {
    const what = held.map(([kind, count]) => `${count} ${kind}`).join(', ');
    problems.push(
      make(
        'peer-mass-delete-held',
        `its list lacks ${what} that were known, which are kept for now`,
      ),
    );
  }
  if (sight.lagMs !== undefined && sight.lagMs.p99 > LATE_MS) {
    problems.push(
      make(
        'peer-lag',
        `of its changes the slowest hundredth takes ${Math.round(sight.lagMs.p99 / 1000)} s or more`,
      ),
    );
  }
  if (sight.clockWrongByMs !== undefined) {
    const seconds = Math.round(Math.abs(sight.clockWrongByMs) / 1000);
    const direction = sight.clockWrongByMs > 0 ? 'ahead of' : 'behind';
    problems.push(make('peer-clock', `its clock is ${seconds} s ${direction} ours`));
  }
  if (sight.refused > 0) {
    problems.push(
      make('peer-addresses-refused', `${sight.refused} of its addresses or records are not used`),
    );
  }
  const { certificateExpiresAt: expiresAt, certificateDueAt: dueAt } = sight;
  if (expiresAt !== undefined && dueAt !== undefined) {
    problems.push(
      ...expiryProblems(subject, { what: 'our certificate for it', expiresAt, dueAt, now }),
    );
  }
  return problems;
}

const STATE_PROBLEMS: Readonly<Record<string, ProblemId>> = {
  failed: 'peer-failed',
  stale: 'peer-stale',
  withdrawn: 'peer-withdrawn',
};
const NOTE_PROBLEMS: Readonly<Record<string, ProblemId>> = {
  'publisher-silent': 'peer-publisher-silent',
  'mirror-silent': 'peer-mirror-silent',
};

function expiryProblems(
  subject: string,
  life: {
    readonly what: string;
    readonly expiresAt: number;
    readonly dueAt: number;
    readonly now: number;
  },
): Problem[] {
  const { what, expiresAt, dueAt, now } = life;
  const end = new Date(expiresAt).toISOString().slice(0, 16);
  if (now >= expiresAt) {
    return [problemOf('certificate-expired', { subject, cause: `${what} has expired, ${end}` })];
  }
  if (now < dueAt) return [];
  return [problemOf('certificate-expiring', { subject, cause: `${what} expires ${end}` })];
}

function agentProblems(agent: MeshAgent): Problem[] {
  const { row, report } = agent;
  const subject = `${row.kind} ${row.name}`;
  const values = { node: row.name };
  const make = (id: ProblemId, cause: string): Problem => problemOf(id, { subject, cause, values });
  switch (row.session) {
    case 'never':
      // A machine that has enrolled and was never there is nobody's trouble yet.
      return row.kind === 'machine'
        ? []
        : [
            make(
              'agent-missing',
              'the cluster has this node, and no agent on it has a session with the registry',
            ),
          ];
    case 'gone':
      return [
        make(
          'agent-silent',
          `its session with the registry ended ${Math.round(row.forMs / 1000)} s ago`,
        ),
      ];
    default:
      return report === undefined ? [] : reportProblems(report, make);
  }
}

/** What is wrong with an agent by its own account, its peers left out. */
export function reportProblems(
  report: AgentReport,
  make: (id: ProblemId, cause: string) => Problem,
): Problem[] {
  return [
    ...report.missing.map((cause) => make('agent-not-ready', cause)),
    ...report.kernel.map((cause) => make('kernel-differs', cause)),
    ...report.policies.errors.map((cause) => make('policy-errors', cause)),
    ...report.pressure
      .filter(({ used, size }) => used > size * NEARLY_FULL)
      .map(({ map, used, size }) =>
        make('map-pressure', `${map} holds ${used} of ${size} entries`),
      ),
    ...report.notes.map((cause) => make('agent-note', cause)),
  ];
}

function versionProblems({ status, agents }: MeshView): Problem[] {
  const byVersion = new Map<string, string[]>();
  for (const { row, report } of agents) {
    if (report === undefined || report.version === status.version) continue;
    byVersion.set(report.version, [...(byVersion.get(report.version) ?? []), row.name]);
  }
  return [...byVersion].map(([version, names]) => {
    const named = names.slice(0, MOST_NAMED).join(', ');
    const more = names.length > MOST_NAMED ? ` and ${names.length - MOST_NAMED} more` : '';
    return problemOf('version-skew', {
      subject: `cluster ${status.cluster.name}`,
      cause: `the apiserver is ${status.version}, the agents on ${named}${more} are ${version}`,
    });
  });
}

/** The same sentence of two agents differs in seconds and dates. */
function withoutTimes(cause: string): string {
  return cause.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z?/g, 'T').replace(/\d+/g, '0');
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 1024 / 1024)} MiB`;
}
