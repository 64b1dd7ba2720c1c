/** `clustermesh policy list` and `get`. */
import type { EndpointAnswer, EntryInfo, PolicyListAnswer } from '../agent/policy/policy-list.ts';
import { CliError } from './cli-error.ts';
import type { AgentName, PolicyAgents } from './policy-agents.ts';
import { renderRows } from './policy-output.ts';
import { ruleLine, shortLabels } from './policy-reason.ts';

/** Asks every agent for its policies. */
export function listEverywhere(agents: PolicyAgents): Promise<PolicyListAnswer[]> {
  return Promise.all(agents.names.map((agent) => agents.list(agent)));
}

/** Policies of every node as a table, and what is wrong with them. */
export function renderList(answers: readonly PolicyListAnswer[]): string {
  const rows = answers.flatMap(({ cluster, node, policies }) =>
    policies.map(({ policy, generation, state, file, endpoints, entries }) => [
      cluster,
      node,
      policy,
      generation,
      state,
      endpoints.length,
      entries,
      file ?? '-',
    ]),
  );
  const modes = answers
    .filter(({ mode, auditMode }) => mode !== 'default' || auditMode)
    .map(
      ({ cluster, node, mode, auditMode }) =>
        `${cluster}/${node}: --enable-policy ${mode}${auditMode ? ', audit mode' : ''}\n`,
    );
  const problems = answers.flatMap(({ cluster, node, policies }) =>
    policies.flatMap(({ policy, problems: found }) =>
      found.map(({ message }) => `${cluster}/${node} ${policy}: ${message}\n`),
    ),
  );
  const table = renderRows(
    ['CLUSTER', 'NODE', 'POLICY', 'GENERATION', 'STATE', 'ENDPOINTS', 'ENTRIES', 'FILE'],
    rows,
  );
  return [table === '' ? 'no policies\n' : table, ...modes, ...problems].join('');
}

/** An endpoint and the agent that has it. */
export interface FoundEndpoint {
  readonly agent: AgentName;
  readonly endpoint: EndpointAnswer;
}

/** Finds endpoints by number, address or pod among all agents. Throws CliError `problem` when there is none. */
export async function findEndpoints(
  agents: PolicyAgents,
  wanted: string,
): Promise<FoundEndpoint[]> {
  const found = await Promise.all(
    agents.names.map(async (agent) =>
      (await agents.endpoints(agent, wanted)).map((endpoint) => ({ agent, endpoint })),
    ),
  );
  const all = found.flat();
  if (all.length > 0) return all;
  const where = agents.names.map(({ cluster, node }) => `${cluster}/${node}`).join(', ');
  throw new CliError(
    'problem',
    `cannot find endpoint ${wanted} on ${where}: expected NAMESPACE/NAME of a pod, an address or a number, as in \`clustermesh status\``,
  );
}

/** Endpoints with the rows that policies made for them. */
export function renderEndpoints(endpoints: readonly EndpointAnswer[]): string {
  return endpoints.map(renderEndpoint).join('\n');
}

function renderEndpoint(endpoint: EndpointAnswer): string {
  const { cluster, node, endpointId, pod, addresses, identity, labels, entries } = endpoint;
  const state = (isEnforced: boolean): string => (isEnforced ? 'enforced' : 'open');
  const head = [
    `${pod === '' ? `endpoint ${endpointId}` : pod} (${cluster}/${node}, endpoint ${endpointId})`,
    `  addresses  ${addresses.join(', ')}`,
    `  identity   ${identity} ${labels.join(',')}`,
    `  ingress    ${state(endpoint.ingressEnforced)}`,
    `  egress     ${state(endpoint.egressEnforced)}`,
    ...(endpoint.audit ? ['  audit      on: what is denied passes, and is told'] : []),
    `  policies   ${endpoint.policies.join(', ') || 'none'}`,
  ];
  const rows = grouped(entries).map(({ first, peers }) => [
    first.direction,
    first.verdict,
    first.port ?? 'any',
    peersText(peers),
    first.rules.map(ruleLine).join('\n') || 'open besides what is denied',
  ]);
  const table = renderRows(['DIRECTION', 'VERDICT', 'PORT', 'PEER', 'RULE'], rows);
  return `${head.join('\n')}\n${table}`;
}

/** Rows that differ in the other side alone, together. */
function grouped(
  entries: readonly EntryInfo[],
): { readonly first: EntryInfo; readonly peers: readonly EntryInfo[] }[] {
  const groups = new Map<string, EntryInfo[]>();
  for (const entry of entries) {
    const { direction, verdict, port, rules } = entry;
    const key = JSON.stringify([direction, verdict, port, rules]);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [entry]);
    else group.push(entry);
  }
  return [...groups.values()].flatMap((peers) =>
    peers[0] === undefined ? [] : [{ first: peers[0], peers }],
  );
}

const MAX_PEERS = 8;

function peersText(peers: readonly EntryInfo[]): string {
  const lines = peers.slice(0, MAX_PEERS).map(({ identity, labels, cluster }) => {
    if (identity === 0) return 'anybody';
    const where = cluster === undefined ? '' : ` (${cluster})`;
    return `${identity} ${shortLabels(labels)}${where}`;
  });
  if (peers.length > MAX_PEERS) lines.push(`and ${peers.length - MAX_PEERS} more`);
  return lines.join('\n');
}
