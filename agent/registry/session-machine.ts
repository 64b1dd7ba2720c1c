/** What is different in the session of a machine: who it is, what the cluster decides for it, and what its checks say. Pure. */
import { z } from 'zod';
import { type ClusterName, parseClusterName } from '../../mesh/wire/ids.ts';

/** A check that the cluster wants to be done on the machine itself. */
export interface HealthCheck {
  /** Names it in reports. */
  readonly check: string;
  /** Kinds that are not known are reported as failed. */
  readonly kind: string;
  readonly port: number;
  /** For `http`. */
  readonly path: string;
  readonly periodMs: number;
  readonly timeoutMs: number;
  /** Failures in a row that make it unhealthy. */
  readonly failures: number;
}

/** What a check says: once at the beginning, and then when it changes. */
export interface CheckResult {
  readonly check: string;
  readonly healthy: boolean;
  /** Why not; empty when it is healthy. */
  readonly reason: string;
}

/** What the cluster's side has decided for a machine. */
export interface MachineConfig {
  readonly labels: Readonly<Record<string, string>>;
  readonly namespace: string;
  /** Clusters that can be read by way of the own one. */
  readonly peers: readonly ClusterName[];
  readonly checks: readonly HealthCheck[];
  /** PEM; empty: nothing is said of it. */
  readonly trustBundle: string;
  /** The authority that signs at present, SHA-256 in lower-case hex; empty: nothing is said of it. */
  readonly issuer: string;
}

/** The machine's side of a session. */
export interface MachineSide {
  /** Differs after each boot, and on each clone of a disk. */
  readonly instanceId: string;
  /** Random for each process. */
  readonly runId: string;
  onConfig(config: MachineConfig): void;
  /** What the checks say, everything first; ends when `signal` aborts. */
  results(signal: AbortSignal): AsyncIterable<readonly CheckResult[]>;
}

/** More than any Service has; what is beyond would only be work. */
const MAX_CHECKS = 1000;
const MIN_PERIOD_MS = 500;
const MAX_PERIOD_MS = 300_000;
const MIN_TIMEOUT_MS = 100;
const MAX_TIMEOUT_MS = 60_000;
/** Results in one message: with their reasons well below what a registry takes. */
const RESULTS_EACH = 100;

const configSchema = z.object({
  labels: z.record(z.string(), z.string()).default({}),
  namespace: z.string().default(''),
  peers: z.array(z.string()).default([]),
  checks: z
    .array(
      z.object({
        check: z.string(),
        kind: z.string().default(''),
        port: z.number().default(0),
        path: z.string().default('/'),
        period_ms: z.number().default(0),
        timeout_ms: z.number().default(0),
        failures: z.number().default(0),
      }),
    )
    .max(MAX_CHECKS)
    .default([]),
  trust_bundle: z
    .instanceof(Buffer)
    .transform((bytes) => bytes.toString('utf8'))
    .default(''),
  issuer: z.string().default(''),
});

/** Reads a MachineConfig as it came; numbers are brought within bounds, names that are no cluster's are left out. */
export function parseMachineConfig(message: unknown): MachineConfig {
  const { labels, namespace, peers, checks, trust_bundle, issuer } = configSchema.parse(message);
  return {
    labels,
    namespace,
    peers: peers.flatMap((name) => {
      try {
        return [parseClusterName(name)];
      } catch {
        // One name of many: the others are as good as before.
        return [];
      }
    }),
    checks: checks.map(({ check, kind, port, path, period_ms, timeout_ms, failures }) => ({
      check,
      kind,
      port,
      path,
      periodMs: within(period_ms, MIN_PERIOD_MS, MAX_PERIOD_MS),
      timeoutMs: within(timeout_ms, MIN_TIMEOUT_MS, MAX_TIMEOUT_MS),
      failures: within(failures, 1, 100),
    })),
    trustBundle: trust_bundle,
    issuer,
  };
}

/** Results in as many messages as it takes. */
export function healthMessages(results: readonly CheckResult[]): object[] {
  const messages: object[] = [];
  for (let start = 0; start < results.length; start += RESULTS_EACH) {
    messages.push({ health: { results: results.slice(start, start + RESULTS_EACH) } });
  }
  return messages;
}

function within(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
