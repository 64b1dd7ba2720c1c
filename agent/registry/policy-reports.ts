/** What the registry is told of how policies stand on this node: everything once, then what changes. */
import type { PolicyReport } from '../api/status.ts';

/** Well below what a registry takes in one message. */
const MAX_MESSAGE_BYTES = 32 * 1024;
/** Beyond these a report is cut: it is for people, who go on with what they can read. */
const MAX_PROBLEMS = 20;
const MAX_TEXT_LENGTH = 500;

/** A report as it travels: `PolicyReport` of registry.proto. */
interface SentReport {
  readonly policy: string;
  readonly generation: number;
  readonly endpoints: number;
  readonly entries: number;
  readonly last_error: string;
  readonly problems: readonly string[];
}

/** `PolicyReports` of registry.proto. */
export interface ReportsMessage {
  readonly reports: readonly SentReport[];
  /** Policies that are not there any more. */
  readonly gone: readonly string[];
  /** Everything has been said once. */
  readonly complete: boolean;
}

/** Remembers what one session was told. */
export interface PolicyReporter {
  /** Messages that bring the registry from what it was told up to date; none: it is. */
  next(reports: readonly PolicyReport[]): ReportsMessage[];
}

/** Makes one for a session that was told nothing. */
export function createPolicyReporter(): PolicyReporter {
  const told = new Map<string, string>();
  let isComplete = false;

  return {
    next(reports) {
      const changed: SentReport[] = [];
      const present = new Set<string>();
      for (const report of reports.map(sentReport)) {
        const text = JSON.stringify(report);
        present.add(report.policy);
        if (told.get(report.policy) === text) continue;
        told.set(report.policy, text);
        changed.push(report);
      }
      const gone = [...told.keys()].filter((policy) => !present.has(policy));
      for (const policy of gone) told.delete(policy);
      const messages = [
        ...split(changed).map((part) => ({ reports: part, gone: [], complete: false })),
        ...split(gone).map((part) => ({ reports: [], gone: part, complete: false })),
      ];
      if (isComplete) return messages;
      isComplete = true;
      return [...messages, { reports: [], gone: [], complete: true }];
    },
  };
}

function sentReport(report: PolicyReport): SentReport {
  const { policy, generation, entries, lastError = '' } = report;
  const problems = report.problems.map(({ path, message }) =>
    cut(path === '' ? message : `${path}: ${message}`),
  );
  const more = problems.length - MAX_PROBLEMS;
  return {
    policy,
    generation,
    endpoints: report.endpoints.length,
    entries,
    last_error: cut(lastError),
    problems: more > 0 ? [...problems.slice(0, MAX_PROBLEMS), `and ${more} more`] : problems,
  };
}

function cut(text: string): string {
  return text.length <= MAX_TEXT_LENGTH ? text : `${text.slice(0, MAX_TEXT_LENGTH)}…`;
}

/** Parts that fit into a message each. */
function split<T>(items: readonly T[]): T[][] {
  const parts: T[][] = [];
  let bytes = MAX_MESSAGE_BYTES;
  for (const item of items) {
    // JSON says the names of fields besides, so that what travels is shorter.
    const size = Buffer.byteLength(JSON.stringify(item));
    if (bytes + size > MAX_MESSAGE_BYTES) {
      parts.push([]);
      bytes = 0;
    }
    bytes += size;
    parts.at(-1)?.push(item);
  }
  return parts;
}
