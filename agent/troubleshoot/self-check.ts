/** `GET /v1/check` of the agent's socket: whether it does its part, reads its clusters, and shares Services with kube-proxy as it should. Pure. */
import type { Check } from '../../mesh/diagnosis/check.ts';
import { reportProblems, sightProblems } from '../../mesh/diagnosis/mesh-problems.ts';
import { type Problem, problemOf } from '../../mesh/diagnosis/problem.ts';
import type { ProblemId } from '../../mesh/diagnosis/problems.ts';
import type { AgentStatus } from '../api/status.ts';
import { agentReportOf } from '../registry/agent-reports.ts';

const SUBJECT = 'this host';
const NO_KUBE_PROXY = 'nothing of a kube-proxy is here';
/** What is so when there is no problem of a kind. */
const TITLES = {
  'agent-not-ready': 'the agent is ready',
  'kernel-differs': 'the kernel holds what it should',
  'policy-errors': 'policies are enforced as they are written',
  'map-pressure': 'no table of the kernel is nearly full',
  'agent-note': 'the agent has nothing to remark',
} as const satisfies Partial<Record<ProblemId, string>>;

/** Looks. `kubeProxy`: what of one is on this node, in words; undefined: nothing. `now`: milliseconds since 1970. */
export function checkAgent(
  status: AgentStatus,
  { kubeProxy, now }: { readonly kubeProxy: string | undefined; readonly now: number },
): Check[] {
  return [...judgeAgent(status, now), judgeServices(status, kubeProxy)];
}

/** What an agent says of itself and of the clusters that it reads. */
function judgeAgent(status: AgentStatus, now: number): Check[] {
  const report = agentReportOf(status, 'node');
  const problems = reportProblems(report, (id, cause) =>
    problemOf(id, { subject: SUBJECT, cause }),
  );
  const checks = Object.entries(TITLES).flatMap(([id, title]) =>
    checksOf(
      'agent',
      title,
      problems.filter((problem) => problem.id === id),
    ),
  );
  const { registry } = status;
  if (registry !== undefined) {
    const session = registry.healthy
      ? []
      : [problemOf('agent-note', { subject: SUBJECT, cause: `its session: ${registry.text}` })];
    checks.push(...checksOf('agent', 'its session with the registry stands', session));
  }
  for (const sight of report.clusters) {
    const who = sight.own ? 'the own cluster' : `cluster ${sight.name}`;
    checks.push(...checksOf('clusters', `${who} is read`, sightProblems(sight.name, sight, now)));
  }
  return checks;
}

/** Whether agent and kube-proxy divide Services between them. `found`: what of a kube-proxy is there, in words. Pure. */
export function judgeServices(
  { services, notes }: Pick<AgentStatus, 'services' | 'notes'>,
  found: string | undefined,
): Check {
  const title = `the agent translates Services: ${services.translated}; ${found ?? NO_KUBE_PROXY}`;
  const cause = servicesCause(services, found);
  // It says so itself where it was so from the beginning.
  const isSaid = notes.some((note) => note.includes('--kube-proxy-replacement is given'));
  if (cause === undefined || isSaid) return { section: 'services', title, problem: undefined };
  return {
    section: 'services',
    title,
    problem: problemOf('host-kube-proxy', { subject: SUBJECT, cause }),
  };
}

function servicesCause(
  { scope, translated, kubeProxyReplacement }: AgentStatus['services'],
  found: string | undefined,
): string | undefined {
  if (found === undefined) {
    return scope === 'all'
      ? undefined
      : `the agent translates ${translated}, and ${NO_KUBE_PROXY}: unless another program does, nobody translates the others`;
  }
  if (scope === 'global') return undefined;
  const why = kubeProxyReplacement ? '--kube-proxy-replacement is given' : translated;
  return `the agent translates every Service (${why}), and ${found}: both do it`;
}

function checksOf(section: string, title: string, problems: readonly Problem[]): Check[] {
  return problems.length === 0
    ? [{ section, title, problem: undefined }]
    : problems.map((problem) => ({ section, title, problem }));
}
