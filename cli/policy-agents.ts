/** What the commands about policies ask of agents. */
import type { EndpointAnswer, PolicyListAnswer } from '../agent/policy/policy-list.ts';
import type { SimulateAnswer, SimulateRequest } from '../agent/policy/simulate-answer.ts';
import type { TraceAnswer, TraceQuestion } from '../agent/policy/trace.ts';
import type { Resolved } from '../agent/policy/trace-party.ts';
import { askAgent } from './agent-client.ts';
import { type AgentFlags, agentSockets } from './agent-sockets.ts';
import { CliError } from './cli-error.ts';

/** Who answers, in which cluster. */
export interface AgentName {
  readonly socketPath: string;
  readonly cluster: string;
  readonly node: string;
}

/** What an agent makes of how a side is named. */
export interface ResolveAnswer extends Resolved {
  readonly cluster: string;
  readonly node: string;
}

/** Agents that answer. */
export interface PolicyAgents {
  readonly names: readonly AgentName[];
  /** Why others do not. */
  readonly silent: readonly CliError[];
  list(agent: AgentName): Promise<PolicyListAnswer>;
  /** Endpoints that are meant by a number, an address or a pod's name. */
  endpoints(agent: AgentName, wanted: string): Promise<readonly EndpointAnswer[]>;
  resolve(agent: AgentName, party: string): Promise<ResolveAnswer>;
  trace(agent: AgentName, questions: readonly TraceQuestion[]): Promise<readonly TraceAnswer[]>;
  simulate(agent: AgentName, request: SimulateRequest): Promise<SimulateAnswer>;
  setAudit(agent: AgentName, request: { endpointId: number; audit: boolean }): Promise<void>;
}

/** Options of every command that asks agents. */
export interface PolicyFlags extends AgentFlags {
  readonly timeout: number;
}

/** Finds the agents that are meant. Throws CliError when none of them answers. */
export async function findPolicyAgents(
  flags: PolicyFlags,
  signal: AbortSignal,
): Promise<PolicyAgents> {
  const timeoutMs = flags.timeout * 1000;
  const ask = async <T>(
    socketPath: string,
    path: string,
    rest: { method?: 'POST' | 'PUT'; body?: unknown } = {},
  ): Promise<T> =>
    // Agents of this machine are ours, and of the same version.
    (await askAgent(socketPath, { path, timeoutMs, signal, ...rest })) as T;
  const found = await Promise.all(
    (await agentSockets(flags)).map(async (socketPath) => {
      try {
        const { cluster, node } = await ask<PolicyListAnswer>(socketPath, '/v1/policies/node');
        return { socketPath, cluster, node };
      } catch (error) {
        if (error instanceof CliError) return error;
        throw error;
      }
    }),
  );
  const names = found.flatMap((one) => (one instanceof CliError ? [] : [one]));
  const silent = found.flatMap((one) => (one instanceof CliError ? [one] : []));
  const [first] = silent;
  if (names.length === 0 && first !== undefined) throw first;
  return {
    names,
    silent,
    list: ({ socketPath }) => ask(socketPath, '/v1/policies'),
    endpoints: ({ socketPath }, wanted) =>
      ask(socketPath, `/v1/policies/endpoints?${new URLSearchParams({ endpoint: wanted })}`),
    resolve: ({ socketPath }, party) =>
      ask(socketPath, `/v1/policies/resolve?${new URLSearchParams({ party })}`),
    trace: ({ socketPath }, questions) =>
      ask(socketPath, '/v1/policies/trace', { method: 'POST', body: { questions } }),
    simulate: ({ socketPath }, request) =>
      ask(socketPath, '/v1/policies/simulate', { method: 'POST', body: request }),
    setAudit: async ({ socketPath }, request) => {
      await ask(socketPath, '/v1/policies/audit', { method: 'PUT', body: request });
    },
  };
}
