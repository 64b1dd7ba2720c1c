/**
 * How agents do, as they say it. Each registry hangs a key for each agent that reports to it on a lease of its own, and reads
 * those of all: so every replica can tell of the whole mesh, and what a dead one was told goes with it.
 */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type AgentReport, decodeAgentReport } from '../../mesh/wire/agent-report.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import { createToldKeys } from './told-keys.ts';

/** Where reports are, by registry and agent. */
export const AGENT_REPORTS_PREFIX = `${REGISTRY_PREFIX}agents/`;
/** Changes within this time are written together; and agents that have left are looked for this often. */
const SETTLE_MS = 1_000;
/** A report whose numbers alone have changed is written no oftener: with thousands of agents each write counts. */
const NUMBERS_EVERY_MS = 5 * 60_000;

/** What one session of an agent says. */
export interface AgentReportSession {
  /** Takes a report as it came. False: it cannot be read, or another session of the agent has begun. */
  take(json: string): boolean;
}

/** How agents do. */
export interface AgentBoard {
  /** Begins a session; what an earlier one said counts until this one says something. `subject`: as the policy board names it. */
  open(subject: string): AgentReportSession;
  /** JSON of the newest report of each agent, by subject. */
  readonly reports: ReadonlyMap<string, string>;
  /** Tells others what agents say here, and reads what they tell, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

interface Said {
  readonly session: AgentReportSession;
  json: string | undefined;
}

/** Makes an empty board. */
export function createAgentBoard(options: {
  readonly store: KvStore;
  /** Whether what an agent said here still counts: it has not gone for good, and has no session at another registry. */
  readonly isHere: (subject: string) => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}): AgentBoard {
  const { store, isHere, clock, logger } = options;
  const here = new Map<string, Said>();
  /** What other registries tell, by key. */
  const told = new Map<string, string>();
  const keys = createToldKeys({
    store,
    prefix: AGENT_REPORTS_PREFIX,
    prepare() {
      for (const subject of [...here.keys()]) {
        if (isHere(subject)) continue;
        here.delete(subject);
        keys.touch(subject);
      }
    },
    valueFor: (subject) => here.get(subject)?.json,
    isDue: (json, last) => last.ageMs >= NUMBERS_EVERY_MS || standOf(last.value) !== standOf(json),
    onEvent(event) {
      if (event.kind === 'put') {
        const { key, value } = event.pair;
        if (!keys.isOwn(key)) told.set(key, value.toString('utf8'));
      }
      if (event.kind === 'delete') {
        told.delete(event.key);
        if (keys.isOwn(event.key)) keys.lost(subjectOf(event.key));
      }
    },
    failure: 'cannot tell how an agent does, will be retried',
    settleMs: SETTLE_MS,
    clock,
    logger,
  });

  return {
    open(subject) {
      const session: AgentReportSession = {
        take(json) {
          const said = here.get(subject);
          if (said?.session !== session) return false;
          if (readReport(json, subject) === undefined) return false;
          said.json = json;
          keys.touch(subject);
          return true;
        },
      };
      here.set(subject, { session, json: here.get(subject)?.json });
      return session;
    },
    get reports() {
      const reports = new Map<string, string>();
      for (const [key, json] of told) reports.set(subjectOf(key), json);
      for (const [subject, { json }] of here) {
        if (json !== undefined && isHere(subject)) reports.set(subject, json);
      }
      return reports;
    },
    run: (signal) => keys.run(signal),
  };
}

/** The agent of a key, whichever registry wrote it; as it stands where it is not what a registry writes. */
function subjectOf(key: string): string {
  const name = key.slice(key.lastIndexOf('/') + 1);
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** What other registries have to know at once: whether the agent is ready, and where it sees each cluster. */
function standOf(json: string): string {
  const report = readReport(json, 'agent');
  if (report === undefined) return json;
  const { version, ready, missing, clusters, policies, kernel } = report;
  const states = clusters.map(({ name, state, notes }) => [name, state, notes.length]);
  return JSON.stringify([version, ready, missing.length, states, policies.errors, kernel]);
}

function readReport(json: string, subject: string): AgentReport | undefined {
  try {
    return decodeAgentReport(json, `report of ${subject}`);
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}
