/** How nodes say that policies stand, parsed, and what several nodes say of one policy together. Pure. */
import { z } from 'zod';

/** Problems and errors that are kept of one policy. */
const MAX_SHOWN = 20;

/** How a policy stands on one node. */
export interface NodePolicyReport {
  /** `CiliumNetworkPolicy demo/web`. */
  readonly policy: string;
  /** The object's `metadata.generation`. */
  readonly generation: number;
  /** Endpoints of the node that it selects. */
  readonly endpoints: number;
  /** Rows of the node's policy table that its rules have a part in. */
  readonly entries: number;
  /** What fails on the node at present; empty: nothing. */
  readonly lastError: string;
  /** What of it is not enforced as written. */
  readonly problems: readonly string[];
}

/** What a node said at once. */
export interface PolicyNews {
  readonly reports: readonly NodePolicyReport[];
  /** Policies that are not there any more. */
  readonly gone: readonly string[];
  /** Everything has been said once in this session. */
  readonly complete: boolean;
}

/** How a policy stands on the nodes that have said so. */
export interface PolicyStanding {
  readonly policy: string;
  /** The highest that a node knows. */
  readonly generation: number;
  /** Nodes that know the policy, those of them with an older generation, and those where it selects somebody. */
  readonly nodes: number;
  readonly behind: number;
  readonly selecting: number;
  /** Endpoints that it selects. */
  readonly endpoints: number;
  readonly entries: number;
  /** What of that generation is not enforced as written. */
  readonly problems: readonly string[];
  /** What fails at present, with the node. */
  readonly errors: readonly string[];
}

const reportSchema = z.object({
  policy: z.string().min(1),
  generation: z.coerce.number().int().min(0).default(0),
  endpoints: z.number().default(0),
  entries: z.number().default(0),
  last_error: z.string().default(''),
  problems: z.array(z.string()).default([]),
});

const newsSchema = z.object({
  reports: z.array(reportSchema).default([]),
  gone: z.array(z.string()).default([]),
  complete: z.boolean().default(false),
});

const standingSchema = z.object({
  schema: z.literal(1),
  policy: z.string().min(1),
  generation: z.number(),
  nodes: z.number(),
  behind: z.number(),
  selecting: z.number(),
  endpoints: z.number(),
  entries: z.number(),
  problems: z.array(z.string()),
  errors: z.array(z.string()),
});

/** Parses `PolicyReports` of registry.proto; undefined: it is none. */
export function parsePolicyNews(message: unknown): PolicyNews | undefined {
  const result = newsSchema.safeParse(message);
  if (!result.success) return undefined;
  const { reports, gone, complete } = result.data;
  return {
    reports: reports.map(({ last_error: lastError, ...report }) => ({ ...report, lastError })),
    gone,
    complete,
  };
}

/** Value under which a registry tells others how a policy stands on its nodes. */
export function encodeStanding(standing: PolicyStanding): string {
  return JSON.stringify({ schema: 1, ...standing });
}

/** Reads it back; undefined: it is not one that is known. */
export function decodeStanding(value: string): PolicyStanding | undefined {
  let object: unknown;
  try {
    object = JSON.parse(value);
  } catch {
    return undefined;
  }
  const result = standingSchema.safeParse(object);
  if (!result.success) return undefined;
  const { schema: _schema, ...standing } = result.data;
  return standing;
}

/** How a policy stands on one node, as `addStandings` takes it. */
export function standingOnNode(node: string, report: NodePolicyReport): PolicyStanding {
  const { lastError, ...rest } = report;
  return {
    ...rest,
    nodes: 1,
    behind: 0,
    selecting: report.endpoints > 0 ? 1 : 0,
    errors: lastError === '' ? [] : [`node ${node}: ${lastError}`],
  };
}

/** What several say of one policy, together; undefined: nobody says anything. The order does not matter. */
export function addStandings(parts: readonly PolicyStanding[]): PolicyStanding | undefined {
  const [first] = parts;
  if (first === undefined) return undefined;
  const generation = Math.max(...parts.map((part) => part.generation));
  const newest = parts.filter((part) => part.generation === generation);
  return {
    policy: first.policy,
    generation,
    nodes: sum(parts, ({ nodes }) => nodes),
    // Of those that are behind all are, and none of the others is more behind than it was.
    behind: sum(parts, (part) => (part.generation < generation ? part.nodes : part.behind)),
    selecting: sum(parts, ({ selecting }) => selecting),
    endpoints: sum(parts, ({ endpoints }) => endpoints),
    entries: sum(parts, ({ entries }) => entries),
    problems: distinct(newest.flatMap(({ problems }) => problems)),
    errors: distinct(parts.flatMap(({ errors }) => errors).sort()),
  };
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}

function distinct(texts: readonly string[]): string[] {
  return [...new Set(texts)].slice(0, MAX_SHOWN);
}
