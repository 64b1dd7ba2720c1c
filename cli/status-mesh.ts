/** The mesh as `clustermesh status` shows it: text for people, values for programs. Pure. */
import { findMeshProblems } from '../mesh/diagnosis/mesh-problems.ts';
import { isMeshReady, type MeshPeer, type MeshView } from '../mesh/diagnosis/mesh-view.ts';
import { bySeverity, type Problem } from '../mesh/diagnosis/problem.ts';
import type { PeerSight } from '../mesh/wire/agent-report.ts';
import { renderRows } from './policy-output.ts';
import { createPaint, type Paint } from './terminal-paint.ts';
import { spanText } from './vm-text.ts';

/** Agents that a table shows when they are fine; the rest is counted. */
const MOST_FINE_AGENTS = 20;

/** The mesh as a value, for JSON and YAML. */
export interface MeshOutput {
  readonly cluster: MeshView['status']['cluster'];
  readonly ready: boolean;
  readonly version: string;
  readonly replica: string;
  readonly mode: string;
  readonly at: string;
  readonly apiserver: MeshView['status']['apiserver'];
  readonly etcd: MeshView['status']['etcd'];
  readonly certificates: MeshView['status']['certificates'];
  readonly peers: readonly object[];
  readonly agents: readonly object[];
  readonly problems: readonly Problem[];
}

/** Makes the value. */
export function meshOutput(view: MeshView): MeshOutput {
  const { status } = view;
  return {
    cluster: status.cluster,
    ready: isMeshReady(view),
    version: status.version,
    replica: status.replica,
    mode: status.mode,
    at: new Date(status.at).toISOString(),
    apiserver: status.apiserver,
    etcd: status.etcd,
    certificates: status.certificates,
    peers: view.peers.map(({ name, sight, readers }) => ({
      ...sight,
      name,
      readers: readers.map(({ from, sight: seen }) => ({ from, state: seen.state })),
    })),
    agents: view.agents.map(({ row: { report: _json, ...row }, report }) => ({ ...row, report })),
    problems: findMeshProblems(view),
  };
}

/** Text for a terminal: who is there, the peers, the agents, and what needs attention. */
export function renderMesh(
  view: MeshView,
  { hasColours }: { readonly hasColours: boolean },
): string {
  const paint = createPaint(hasColours);
  const { status } = view;
  const problems = findMeshProblems(view);
  const isReady = isMeshReady(view);
  const ready = view.peers.filter(({ readers }) =>
    readers.every(({ sight }) => sight.state === 'ready'),
  ).length;
  const role = status.apiserver.leads === false ? ', stands by' : '';
  const head = [
    `cluster ${paint.strong(status.cluster.name)} (id ${status.cluster.id}), ${status.mode}, apiserver ${status.replica} ${status.version}${role}: ${isReady ? paint.good('ready') : paint.bad('not ready')}`,
    `ClusterMesh: ${ready}/${view.peers.length} remote clusters ready`,
  ];
  const sections = [
    head.join('\n'),
    view.peers.length === 0 ? 'no peers' : peerTable(view, paint),
    agentTable(view, paint),
    renderProblems(problems, paint),
  ];
  return `${sections.map((section) => section.trimEnd()).join('\n\n')}\n`;
}

/** Problems as people read them: what, why, what to run next, where to read on. */
export function renderProblems(problems: readonly Problem[], paint: Paint): string {
  if (problems.length === 0) return paint.good('no problems');
  return bySeverity(problems)
    .map(({ id, severity, subject, cause, nextCommand, docs }) => {
      const mark = severity === 'error' ? paint.bad('error') : paint.warn('warning');
      return [
        `${mark} ${paint.strong(id)}: ${printable(subject)}: ${printable(cause)}`,
        `  run:  ${printable(nextCommand)}`,
        `  read: ${docs}`,
      ].join('\n');
    })
    .join('\n');
}

function peerTable({ peers, now }: MeshView, paint: Paint): string {
  const head = [
    'PEER',
    'ID',
    'STATE',
    'SINCE',
    'READ BY',
    'NODES',
    'ADDRESSES',
    'SERVICES',
    'LAG p50/p99',
    'CERTIFICATE',
  ];
  return renderRows(
    head,
    peers.map((peer) => {
      const { sight } = peer;
      return [
        printable(peer.name),
        sight.clusterId ?? '?',
        stateText(sight.state, paint),
        spanText(now - sight.since),
        readByText(peer),
        countText(sight, 'nodes'),
        countText(sight, 'ips'),
        countText(sight, 'services'),
        sight.lagMs === undefined ? '-' : `${sight.lagMs.p50}/${sight.lagMs.p99} ms`,
        sight.certificateExpiresAt === undefined
          ? '-'
          : `ends in ${spanText(sight.certificateExpiresAt - now)}`,
      ];
    }),
  );
}

function readByText({ readers }: MeshPeer): string {
  const ready = readers.filter(({ sight }) => sight.state === 'ready').length;
  return `${ready}/${readers.length}`;
}

function countText({ counts }: PeerSight, kind: string): string | number {
  return counts[kind] ?? '-';
}

function agentTable({ agents, status }: MeshView, paint: Paint): string {
  const isFine = ({ row, report }: MeshView['agents'][number]): boolean =>
    (row.session === 'connected' || row.session === 'elsewhere') && report?.ready === true;
  if (agents.length === 0) {
    return status.mode === 'cilium' ? "agents are Cilium's: see `cilium status`" : 'no agents';
  }
  const fine = agents.filter(isFine);
  const shown = [...agents.filter((agent) => !isFine(agent)), ...fine.slice(0, MOST_FINE_AGENTS)];
  const table = renderRows(
    ['AGENT', 'SESSION', 'FOR', 'STATE', 'VERSION', 'PEERS', 'ENDPOINTS', 'POLICIES'],
    shown.map(({ row, report }) => {
      const peers = report?.clusters.filter(({ own }) => !own) ?? [];
      const ready =
        peers.filter(({ state }) => state === 'ready').length + (report?.clustersLeftOut ?? 0);
      return [
        `${row.kind} ${printable(row.name)}`,
        row.session,
        spanText(row.forMs),
        report === undefined ? '-' : report.ready ? paint.good('ready') : paint.bad('not ready'),
        report?.version ?? '-',
        report === undefined ? '-' : `${ready}/${peers.length + report.clustersLeftOut}`,
        report?.endpoints ?? '-',
        report?.policies.count ?? '-',
      ];
    }),
  );
  const hidden = agents.length - shown.length;
  return hidden === 0 ? table : `${table}and ${hidden} more that are ready\n`;
}

function stateText(state: string, paint: Paint): string {
  if (state === 'ready') return paint.good(state);
  return state === 'connecting' || state === 'syncing' ? paint.warn(state) : paint.bad(state);
}

/** Names and sentences come from other hosts: nothing in them reaches the terminal but text. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is meant
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, ' ');
}
