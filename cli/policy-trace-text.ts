/** Traces as text. */
import { verdictReason } from '../agent/policy/sources-of-verdict-info.ts';
import type { Route } from '../agent/policy/trace.ts';
import type { TraceReport } from '../agent/policy/trace-report.ts';
import type { PartyInfo } from '../agent/policy/trace-view.ts';
import { reasonLines, shortLabels } from './policy-reason.ts';
import type { TraceResult } from './policy-trace.ts';

/** Every trace as a block of lines. */
export function renderTrace({ reports, more }: TraceResult): string {
  const blocks = reports.map(renderReport);
  if (more > 0)
    blocks.push(`and ${more} more that fit the question: be more precise to see them\n`);
  return blocks.join('\n');
}

function renderReport(report: TraceReport): string {
  const lines = [
    `${report.verdict.toUpperCase()}: ${partyText(report.from)} -> ${partyText(report.to)} ${report.port}`,
  ];
  if (report.service !== undefined) lines.push(`  service  ${report.service}`);
  lines.push(...sideLines('egress', report.egress, report));
  lines.push(...sideLines('ingress', report.ingress, report));
  lines.push(`  route    ${routeText(report.route, report)}`);
  for (const problem of report.problems) lines.push(`  problem  ${problem}`);
  return `${lines.join('\n')}\n`;
}

function sideLines(
  name: 'egress' | 'ingress',
  side: TraceReport['egress'],
  { from, to, port }: TraceReport,
): string[] {
  const label = name.padEnd(8);
  switch (side.kind) {
    case 'outside':
      return [`  ${label} no policy: not an endpoint or node of a cluster`];
    case 'unknown':
      return [`  ${label} unknown: ${side.advice}`];
    case 'known': {
      const spared = side.audit && side.says.verdict === 'denied' ? ' (audit mode: passes)' : '';
      const where = `${side.cluster}${side.isLocal ? `/${side.node}` : ''}`;
      const [own, other] = name === 'egress' ? [from, to] : [to, from];
      return [
        `  ${label} ${side.says.verdict}${spared} by ${where}: ${verdictReason(side.says)}`,
        ...reasonLines(side.says, { direction: name, own, other, port }).map(
          (line) => `           ${line}`,
        ),
      ];
    }
    default:
      return side satisfies never;
  }
}

function routeText(route: Route | undefined, { from }: TraceReport): string {
  if (route === undefined) {
    return from.address === undefined
      ? 'depends on the pod: name one by its address'
      : 'known to the agent of the node of the source';
  }
  switch (route.kind) {
    case 'local':
      return `local: stays on node ${route.node}`;
    case 'overlay':
      return `overlay: from node ${route.node} in VXLAN to ${route.tunnelEndpoint}`;
    case 'native':
      return `native: by the routes of node ${route.node}`;
    case 'world':
      return `world: out of the mesh by the routes of node ${route.node}`;
    default:
      return route satisfies never;
  }
}

/** `demo/web 10.1.0.5 (alpha/n1)`, or labels where there is no name. */
export function partyText(party: PartyInfo): string {
  const name = [party.pod, party.address].filter((part) => part !== undefined).join(' ');
  const place = [party.cluster, party.node].filter((part) => part !== undefined).join('/');
  const what = name === '' ? shortLabels(party.labels) || `identity ${party.identity}` : name;
  return `${what} (${place === '' ? 'outside' : place})`;
}
