/** `clustermesh policy trace`: asks every agent in reach what it knows of a packet, and puts the answers together. */

import type { TraceQuestion } from '../agent/policy/trace.ts';
import {
  type FrontendInfo,
  imagineParty,
  MAX_PARTIES,
  parseParty,
} from '../agent/policy/trace-party.ts';
import { parsePortQuestion, portText, protocolOf } from '../agent/policy/trace-port.ts';
import { reportTrace, type TraceReport } from '../agent/policy/trace-report.ts';
import type { PartyInfo } from '../agent/policy/trace-view.ts';
import { type IpAddress, ipFamily } from '../mesh/wire/ip.ts';
import { CliError } from './cli-error.ts';
import type { AgentName, PolicyAgents, ResolveAnswer } from './policy-agents.ts';

/** What is asked, as it was written. */
export interface TraceWords {
  readonly from: string;
  readonly to: string;
  /** Undefined: the only port of the Service. */
  readonly port: string | undefined;
}

/** Packets that were traced. */
export interface TraceResult {
  readonly reports: readonly TraceReport[];
  /** How many more pairs fit the question than were looked at. */
  readonly more: number;
}

/** Somebody found, and by whom. */
interface Found {
  readonly party: PartyInfo;
  readonly agent: AgentName;
}

interface Target {
  readonly party: PartyInfo;
  readonly service: string | undefined;
  readonly protocol: number;
  readonly port: number;
}

/** Traces whatever packets the words fit. Throws CliError, and TraceError for words that mean nothing. */
export async function traceAcross(agents: PolicyAgents, words: TraceWords): Promise<TraceResult> {
  const asked = words.port === undefined ? undefined : parsePortQuestion(words.port);
  const from = await resolveEverywhere(agents, words.from);
  if (from.found.length === 0 && from.services.length > 0) {
    throw new CliError(
      'usage',
      `--from ${words.from} is a Service: packets come from pods, nodes and addresses`,
    );
  }
  const sources = from.found.length > 0 ? from.found : imagined(words.from, '--from', agents);
  const to = await resolveEverywhere(agents, words.to);
  const targets =
    to.found.length === 0 && to.services.length > 0
      ? await serviceTargets(agents, { services: to.services, sources, asked, words })
      : direct(to.found.length > 0 ? to.found : imagined(words.to, '--to', agents), {
          asked,
          words,
        });
  const questions = sources.flatMap(({ party }) =>
    targets.map(
      ({
        party: target,
        service,
        protocol,
        port,
      }): TraceQuestion & { service: string | undefined } => ({
        from: party,
        to: target,
        protocol,
        port,
        service,
      }),
    ),
  );
  const chosen = questions.slice(0, MAX_PARTIES);
  const answers = await Promise.all(agents.names.map((agent) => agents.trace(agent, chosen)));
  return {
    reports: chosen.map((question, index) =>
      reportTrace(
        question,
        answers.flatMap((list) => list[index] ?? []),
        { words: wordsText(words) },
      ),
    ),
    more: questions.length - chosen.length + from.more + to.more,
  };
}

/** Everybody that words mean, as the agent says it that knows most. */
export async function findEverywhere(
  agents: PolicyAgents,
  text: string,
): Promise<readonly PartyInfo[]> {
  return (await resolveEverywhere(agents, text)).found.map(({ party }) => party);
}

interface Everywhere {
  readonly found: readonly Found[];
  readonly more: number;
  readonly services: readonly {
    readonly agent: AgentName;
    readonly frontends: readonly FrontendInfo[];
  }[];
}

async function resolveEverywhere(agents: PolicyAgents, text: string): Promise<Everywhere> {
  parseParty(text);
  const answers = await Promise.all(
    agents.names.map(
      async (agent): Promise<{ agent: AgentName; answer: ResolveAnswer }> => ({
        agent,
        answer: await agents.resolve(agent, text),
      }),
    ),
  );
  const best = new Map<string, Found>();
  for (const { agent, answer } of answers) {
    for (const party of answer.parties) {
      const key = party.address ?? `identity ${party.identity}`;
      const before = best.get(key);
      if (before === undefined || rankOf(party) > rankOf(before.party))
        best.set(key, { party, agent });
    }
  }
  return {
    found: [...best.values()],
    more: Math.max(0, ...answers.map(({ answer }) => answer.more)),
    services: answers.flatMap(({ agent, answer: { frontends } }) =>
      frontends.length === 0 ? [] : [{ agent, frontends }],
    ),
  };
}

/** Whoever has the endpoint knows most about it, and whoever knows its cluster more than who does not. */
function rankOf({ node, cluster }: PartyInfo): number {
  return node !== undefined ? 2 : cluster !== undefined ? 1 : 0;
}

/** Somebody with these labels, where nobody has them. */
function imagined(text: string, flag: string, agents: PolicyAgents): Found[] {
  const query = parseParty(text);
  const [agent] = agents.names;
  if (query.kind === 'labels' && agent !== undefined) {
    return [{ party: imagineParty(query, agent.cluster), agent }];
  }
  const where = agents.names.map(({ cluster, node }) => `${cluster}/${node}`).join(', ');
  throw new CliError(
    'problem',
    `cannot find ${flag} ${text}: the agents asked (${where}) have no endpoint or Service of that name; pods of other nodes are found by address or labels, or add --socket-path of the agent of their node`,
  );
}

function direct(
  found: readonly Found[],
  {
    asked,
    words,
  }: { readonly asked: { protocol: number; port: number } | undefined; readonly words: TraceWords },
): Target[] {
  if (asked === undefined) {
    throw new CliError('usage', `give --port: ${words.to} is no Service that would have one`);
  }
  return found.map(({ party }) => ({ party, service: undefined, ...asked }));
}

/** Backends of the frontends that are meant, as the source's own node has them. */
async function serviceTargets(
  agents: PolicyAgents,
  {
    services,
    sources,
    asked,
    words,
  }: {
    readonly services: Everywhere['services'];
    readonly sources: readonly Found[];
    readonly asked: { readonly protocol: number; readonly port: number } | undefined;
    readonly words: TraceWords;
  },
): Promise<Target[]> {
  const [source] = sources;
  const rank = ({ cluster, node }: AgentName): number =>
    cluster !== source?.party.cluster ? 0 : node === source?.party.node ? 2 : 1;
  const [nearest] = [...services].sort((a, b) => rank(b.agent) - rank(a.agent));
  const frontends = nearest?.frontends ?? [];
  const ports = [...new Set(frontends.map(({ port, protocol }) => `${port}/${protocol}`))];
  const wanted =
    asked === undefined ? (ports.length === 1 ? ports[0] : undefined) : portText(asked);
  if (wanted === undefined) {
    throw new CliError('usage', `give --port: ${words.to} has ${ports.join(', ')}`);
  }
  const ofPort = frontends.filter(({ port, protocol }) => `${port}/${protocol}` === wanted);
  // A pod of both families is named by one of its addresses.
  const ofFamily = ofPort.filter(({ address }) => isSameFamily(address, source?.party.address));
  const meant = ofFamily.length > 0 ? ofFamily : ofPort;
  if (meant.length === 0) {
    throw new CliError('problem', `${words.to} has no port ${wanted}: it has ${ports.join(', ')}`);
  }
  const targets = new Map<string, Target>();
  for (const frontend of meant) {
    for (const { address, port } of frontend.backends) {
      const resolved = await resolveEverywhere(agents, address);
      const [party] = resolved.found;
      if (party === undefined) continue;
      targets.set(`${address} ${port}`, {
        party: party.party,
        service: `${frontend.service} ${frontend.address} ${frontend.port}/${frontend.protocol}`,
        protocol: protocolOf(frontend.protocol) ?? 0,
        port,
      });
    }
  }
  if (targets.size === 0) {
    throw new CliError(
      'problem',
      `${words.to} has no backend for port ${wanted}: calls are refused`,
    );
  }
  return [...targets.values()];
}

function isSameFamily(address: IpAddress, other: IpAddress | undefined): boolean {
  return other === undefined || ipFamily(address) === ipFamily(other);
}

function wordsText({ from, to, port }: TraceWords): string {
  const quoted = (text: string): string => (/^[\w./:=,-]+$/.test(text) ? text : `'${text}'`);
  const portFlag = port === undefined ? '' : ` --port ${port}`;
  return `--from ${quoted(from)} --to ${quoted(to)}${portFlag}`;
}
