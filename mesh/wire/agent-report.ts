/**
 * How an agent does, as it tells its registry, and as registries tell each other under `isthmus/registry/agents/`: small, since
 * a cluster has thousands of them.
 */
import { z } from 'zod';
import { WireError } from './wire-error.ts';

/** Schema of what is written; readers take the one before, too. */
export const AGENT_REPORT_SCHEMA = 1;
/** Largest report that is written or taken, in bytes. Below what a registry takes in one message. */
export const MAX_AGENT_REPORT_BYTES = 48 * 1024;

const textsSchema = z.array(z.string()).default([]);
const countsSchema = z.record(z.string(), z.number()).default({});

/** A cluster as one reader of it sees it. Times are milliseconds since 1970. */
export const peerSightSchema = z.object({
  name: z.string(),
  own: z.boolean().default(false),
  /** Absent: not known yet. */
  clusterId: z.number().optional(),
  /** `connecting`, `syncing`, `ready`, `stale`, `withdrawn`, `failed`; a newer reader may know others. */
  state: z.string(),
  since: z.number().default(0),
  /** Why, for people; empty where there is nothing to say. */
  reason: z.string().default(''),
  /** What is odd although the state may be fine: `PeerNote`. */
  notes: z.array(z.object({ code: z.string(), message: z.string() })).default([]),
  /** Entries in use by kind. */
  counts: countsSchema,
  /** Time from the peer's write to our use, in milliseconds. Absent: not known. */
  lagMs: z.object({ p50: z.number(), p99: z.number() }).optional(),
  /** Kinds of which something is held back, with the number of entries. */
  heldBack: countsSchema,
  /** Addresses and records of it that are not used. */
  refused: z.number().default(0),
  /** When the first certificate of its file runs out, and from when on it should have been renewed. Absent: it has none. */
  certificateExpiresAt: z.number().optional(),
  certificateDueAt: z.number().optional(),
  /** The peer's clock less ours, where it is certain that they differ by seconds. */
  clockWrongByMs: z.number().optional(),
});

/** A report. Times are milliseconds since 1970. */
const agentReportSchema = z.object({
  schema: z.number().int().min(1),
  kind: z.enum(['node', 'machine']),
  name: z.string(),
  version: z.string().default(''),
  startedAt: z.number().default(0),
  ready: z.boolean(),
  /** Why it is not ready, a sentence each with what to do. */
  missing: textsSchema,
  /** What else people should know. */
  notes: textsSchema,
  clusters: z.array(peerSightSchema).default([]),
  /** Clusters that are fine and were left out for want of room. */
  clustersLeftOut: z.number().default(0),
  policies: z
    .object({ count: z.number().default(0), errors: textsSchema })
    .default({ count: 0, errors: [] }),
  /** Tables of the kernel that are more than half full. */
  pressure: z.array(z.object({ map: z.string(), used: z.number(), size: z.number() })).default([]),
  /** Differences between the kernel and what is wanted that could not be mended, a sentence each. */
  kernel: textsSchema,
  endpoints: z.number().default(0),
  /** MTU of the tunnel; absent: nothing is tunnelled. */
  mtu: z.number().optional(),
  routingMode: z.string().default(''),
});

/** A cluster as one reader of it sees it. */
export type PeerSight = z.infer<typeof peerSightSchema>;
/** A report, parsed. */
export type AgentReport = z.infer<typeof agentReportSchema>;

/**
 * Writes a report that stays below MAX_AGENT_REPORT_BYTES: where it would not, texts are cut, clusters that are fine lose their
 * counts, and at last only the worst clusters are told of.
 */
export function encodeAgentReport(report: AgentReport): string {
  let json = JSON.stringify(report);
  for (const cut of CUTS) {
    if (Buffer.byteLength(json) <= MAX_AGENT_REPORT_BYTES) return json;
    json = JSON.stringify(cutReport(report, cut));
  }
  return json;
}

/** Reads a report. Throws WireError `too-large`, `bad-value`, or `bad-field` for a schema that is not known. */
export function decodeAgentReport(json: string, key: string): AgentReport {
  if (Buffer.byteLength(json) > MAX_AGENT_REPORT_BYTES) {
    throw new WireError(
      'too-large',
      `cannot parse ${key}: ${Buffer.byteLength(json)} bytes, at most ${MAX_AGENT_REPORT_BYTES} are accepted`,
      { key },
    );
  }
  return parseJsonAs(agentReportSchema, { json, key });
}

/** Parses JSON that has to be of a schema. Throws WireError `bad-value`, naming the first field at fault. */
export function parseJsonAs<T>(
  schema: z.ZodType<T>,
  { json, key }: { readonly json: string; readonly key: string },
): T {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw new WireError('bad-value', `cannot parse ${key}: not JSON`, { key, cause });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new WireError(
    'bad-value',
    `cannot parse ${key}: field ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not known'}`,
    { key, cause: result.error },
  );
}

/** How hard a report is cut: texts of a list, characters of a text, clusters; each try cuts deeper. The last one always fits. */
const CUTS = [
  { texts: 20, length: 300, clusters: 512 },
  { texts: 5, length: 200, clusters: 512 },
  { texts: 1, length: 80, clusters: 50 },
] as const;

function cutReport(report: AgentReport, to: (typeof CUTS)[number]): AgentReport {
  const { texts, length } = to;
  const cut = (text: string): string => (text.length > length ? `${text.slice(0, length)}…` : text);
  const few = (list: readonly string[]): string[] => list.slice(0, texts).map(cut);
  const isFine = ({ own, state, notes }: PeerSight): boolean =>
    !own && state === 'ready' && notes.length === 0;
  const worstFirst = [
    ...report.clusters.filter((cluster) => !isFine(cluster)),
    ...report.clusters.filter(isFine),
  ];
  return {
    ...report,
    missing: few(report.missing),
    notes: few(report.notes),
    kernel: few(report.kernel),
    policies: { ...report.policies, errors: few(report.policies.errors) },
    pressure: report.pressure.slice(0, 100),
    clustersLeftOut: report.clustersLeftOut + Math.max(0, report.clusters.length - to.clusters),
    clusters: worstFirst.slice(0, to.clusters).map((cluster) => ({
      ...cluster,
      reason: cut(cluster.reason),
      counts: cluster.state === 'ready' ? {} : cluster.counts,
      notes: cluster.notes.slice(0, texts).map(({ code, message }) => ({
        code,
        message: cut(message),
      })),
    })),
  };
}
