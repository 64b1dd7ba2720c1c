/** What `clustermesh policy trace` says of packets of the laboratory, to be held against what becomes of them. */
import { portText } from '../../agent/policy/trace-port.ts';
import { findPolicyAgents, type PolicyAgents } from '../../cli/policy-agents.ts';
import { traceAcross } from '../../cli/policy-trace.ts';
import type { Lab } from '../lab/lab.ts';

/** The agents of a lab, as the command line asks them. */
export function openTraces(lab: Lab, signal: AbortSignal): Promise<PolicyAgents> {
  const socketPath = lab.plan.nodes.map((node) => node.socketPath);
  return findPolicyAgents({ socketPath, timeout: 10 }, signal);
}

/** `allow`, or the side that denies; `unclear: …` where agents do not know, or rules and rows say different things. */
export async function traceVerdict(
  agents: PolicyAgents,
  packet: {
    readonly source: string;
    readonly destination: string;
    readonly protocol: number;
    readonly port: number;
  },
): Promise<string> {
  const { reports } = await traceAcross(agents, {
    from: packet.source,
    to: packet.destination,
    port: portText(packet),
  });
  const [report, ...others] = reports;
  if (report === undefined || others.length > 0) return `unclear: ${reports.length} traces`;
  if (report.problems.length > 0) return `unclear: ${report.problems.join('; ')}`;
  for (const side of ['egress', 'ingress'] as const) {
    const found = report[side];
    if (found.kind !== 'known') return `unclear: ${side} is ${found.kind}`;
    if (found.says.verdict === 'denied') return `deny ${side}`;
  }
  return 'allow';
}
