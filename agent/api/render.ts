import { firewallLine } from '../host-firewall/firewall-report.ts';
import { datapathLine } from './render-datapath.ts';
import { intakeProblems, verifiedText } from './render-intake.ts';
import { clockProblems, LAG_HEADER, lagRow } from './render-lag.ts';
import type { AgentStatus, ClusterReport } from './status.ts';

/** Text of a status for a terminal: what is fine in tables, then what is not, with what to do. */
export function renderStatus(status: AgentStatus): string {
  const sections = [
    `${status.node} of cluster ${status.cluster.name} (id ${status.cluster.id}): ${status.ready ? 'ready' : 'not ready'}, since ${status.startedAt}, version ${status.version}`,
    ...(status.missing.length === 0
      ? []
      : [['not ready because:', ...status.missing.map((reason) => `  - ${reason}`)].join('\n')]),
    meshLine(status),
    renderTable(
      [
        'CLUSTER',
        'ID',
        'STATE',
        'SINCE',
        'BACKENDS',
        'NODES',
        'IDENTITIES',
        'ADDRESSES',
        'SERVICES',
        'REFUSED',
        'FAILURES',
        'VERIFIED',
      ],
      status.clusters.map(clusterRow),
    ),
    ...lagTable(status),
    renderTable(
      ['KERNEL TABLE', 'ROWS', 'PENDING', 'FAILED', 'KEPT', 'READ BACK', 'WERE WRONG'],
      status.tables.map(({ name, desired, pending, failed, adopted }) => {
        const audit = status.audit.tables.find(({ table }) => table === name);
        const readBack = [audit?.latest.entries ?? '-', audit?.wrong ?? '-'];
        return [name, ...[desired, pending, failed, adopted, ...readBack].map(String)];
      }),
    ),
    status.endpoints.length === 0
      ? 'no endpoints on this node'
      : renderTable(
          ['ENDPOINT', 'POD', 'ADDRESSES', 'IDENTITY', 'INTERFACE', 'INGRESS', 'EGRESS', 'ENTRIES'],
          status.endpoints.map((endpoint) => [
            String(endpoint.endpointId),
            endpoint.pod || endpoint.containerId.slice(0, 12),
            endpoint.addresses.join(','),
            endpoint.identity === 5 ? 'not known yet' : String(endpoint.identity),
            endpoint.hostInterface,
            endpoint.ingressEnforced ? 'policy' : 'open',
            endpoint.egressEnforced ? 'policy' : 'open',
            String(endpoint.policyEntries),
          ]),
        ),
    ...(status.policies.length === 0
      ? []
      : [
          renderTable(
            ['POLICY', 'GENERATION', 'STATE', 'ENDPOINTS', 'ENTRIES'],
            status.policies.map(({ policy, generation, state, endpoints, entries }) => [
              policy,
              String(generation),
              state === 'enforced' ? 'enforced' : 'partly refused',
              endpoints.join(',') || '-',
              String(entries),
            ]),
          ),
        ]),
    ...(status.datapath === undefined ? [] : [datapathLine(status.datapath)]),
    ...(status.hostPolicy === undefined ? [] : [firewallLine(status.hostPolicy)]),
    `services: ${status.services.local}, global: ${status.services.global}, translated are ${status.services.translated}; identities: ${status.identities}${status.registry === undefined ? '' : `; registry: ${status.registry.text}`}`,
  ];
  const problems = problemsOf(status);
  if (problems.length > 0) {
    sections.push(['problems:', ...problems.map((line) => `  - ${line}`)].join('\n'));
  }
  return `${sections.join('\n\n')}\n`;
}

/** As `cilium-dbg status` has it, so that whoever knows that one finds it here. */
function meshLine({ clusters, services }: AgentStatus): string {
  const peers = clusters.filter(({ own }) => !own);
  const ready = peers.filter(({ state }) => state.kind === 'ready').length;
  return `ClusterMesh: ${ready}/${peers.length} remote clusters ready, ${services.global} global services`;
}

function lagTable({ clusters }: AgentStatus): string[] {
  const rows = clusters.map(lagRow).filter((row) => row !== undefined);
  return rows.length === 0 ? [] : [renderTable(LAG_HEADER, rows)];
}

/** Everything that somebody should look at, a line each. */
export function problemsOf(status: AgentStatus): string[] {
  return [
    ...status.clusters.flatMap(clusterProblems),
    ...status.clusters.flatMap(intakeProblems),
    ...status.clusters.flatMap(clockProblems),
    ...status.notes,
    ...status.tables.flatMap(({ name, failed, lastError }) =>
      failed === 0
        ? []
        : [`table ${name}: ${failed} rows cannot be written: ${lastError ?? 'unknown'}`],
    ),
    ...status.policies.flatMap(({ policy, problems }) =>
      problems.map(({ message }) => `${policy}: ${message}`),
    ),
    ...status.conflicts,
    ...(status.registry === undefined || status.registry.healthy
      ? []
      : [`session with the registry: ${status.registry.text}`]),
  ];
}

function clusterProblems(cluster: ClusterReport): string[] {
  const lines: string[] = [];
  const { name, state, fileProblem, refused } = cluster;
  if ('reason' in state) lines.push(`cluster ${name}: ${state.kind}: ${state.reason}`);
  if (cluster.use.level !== 'none' && state.kind !== 'withdrawn') {
    const effect = cluster.use.level === 'last' ? 'are used last' : 'are withdrawn';
    lines.push(`cluster ${name}: its backends ${effect}: ${cluster.use.reason}`);
  }
  for (const { message } of cluster.notes) lines.push(`cluster ${name}: ${message}`);
  if (fileProblem !== undefined && !('reason' in state && state.reason === fileProblem)) {
    lines.push(`cluster ${name}: ${fileProblem}`);
  }
  if (refused.last !== undefined) {
    const reasons = Object.entries(refused.byReason).map(([reason, count]) => `${count} ${reason}`);
    lines.push(`cluster ${name}: values refused: ${reasons.join(', ')}; last: ${refused.last}`);
  }
  return lines;
}

function clusterRow(cluster: ClusterReport): string[] {
  const { counts, refused, state } = cluster;
  const refusedCount = Object.values(refused.byReason).reduce((sum, count) => sum + count, 0);
  return [
    cluster.own ? `${cluster.name} (own)` : cluster.name,
    cluster.clusterId === undefined ? '?' : String(cluster.clusterId),
    state.kind === 'syncing' ? `syncing ${state.outstanding.join(',')}` : state.kind,
    new Date(cluster.since).toISOString().slice(0, 19),
    { none: cluster.own ? '-' : 'used', last: 'used last', gone: 'withdrawn' }[cluster.use.level],
    String(counts.nodes ?? 0),
    String(counts.identities ?? 0),
    String(counts.ips ?? 0),
    String(counts.services ?? 0),
    String(refusedCount + cluster.addressesRefused),
    String(cluster.failures),
    verifiedText(cluster),
  ];
}

/** Columns as wide as their widest cell, two blanks between. */
function renderTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) => {
    // The last cell of a short row stands where there is room: it widens no column.
    const cells = rows.map((row) => (column === row.length - 1 ? '' : (row[column] ?? '')));
    return Math.max(title.length, ...cells.map(({ length }) => length));
  });
  return [header, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
