/**
 * How agents do, as they say it. Each registry hangs a key for each agent that reports to it on a lease of its own, and reads
 * those of all: so every replica can tell of the whole mesh, and what a dead one was told goes with it.
 */
import { randomBytes } from 'node:crypto';
import { KvError, type KvEvent, type KvLease, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type AgentReport, decodeAgentReport } from '../../mesh/wire/agent-report.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import { untilAnswered } from '../publish/until-answered.ts';

/** Where reports are, by registry and agent. */
export const AGENT_REPORTS_PREFIX = `${REGISTRY_PREFIX}agents/`;
const LEASE_TTL_SECONDS = 10;
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
  const registry = randomBytes(8).toString('hex');
  const prefix = `${AGENT_REPORTS_PREFIX}${registry}/`;
  const here = new Map<string, Said>();
  /** What other registries tell, by key. */
  const told = new Map<string, string>();
  const written = new Map<string, { readonly json: string; readonly at: number }>();
  const dirty = new Set<string>();

  const keyOf = (subject: string): string => prefix + encodeURIComponent(subject);
  const isDue = (subject: string, json: string): boolean => {
    const last = written.get(subject);
    if (last === undefined) return true;
    if (last.json === json) return false;
    return clock.monotonic() - last.at >= NUMBERS_EVERY_MS || standOf(last.json) !== standOf(json);
  };
  const write = async (subject: string, lease: KvLease, signal: AbortSignal): Promise<void> => {
    const json = here.get(subject)?.json;
    if (json === undefined) {
      if (!written.has(subject)) return;
      await store.delete(keyOf(subject), { signal });
      written.delete(subject);
    } else if (isDue(subject, json)) {
      await store.put(keyOf(subject), json, { lease, signal });
      written.set(subject, { json, at: clock.monotonic() });
    }
  };
  const forgetLeavers = (): void => {
    for (const subject of [...here.keys()]) {
      if (isHere(subject)) continue;
      here.delete(subject);
      dirty.add(subject);
    }
  };
  const writeAll = async (lease: KvLease, signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      await clock.sleep(SETTLE_MS, signal).catch(() => undefined);
      forgetLeavers();
      for (const subject of [...dirty]) {
        if (signal.aborted) return;
        dirty.delete(subject);
        try {
          await write(subject, lease, signal);
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof KvError)) throw error;
          logger.warn(
            { agent: subject, err: error },
            'cannot tell how an agent does, will be retried',
          );
          dirty.add(subject);
          break;
        }
      }
    }
  };
  const onEvent = (event: KvEvent): void => {
    if (event.kind === 'put') {
      const { key, value } = event.pair;
      if (!key.startsWith(prefix)) told.set(key, value.toString('utf8'));
    }
    if (event.kind === 'delete') {
      told.delete(event.key);
      // Taken away by mistake or by force: it is so here all the same.
      const subject = event.key.startsWith(prefix) ? subjectOf(event.key) : undefined;
      if (subject !== undefined && written.delete(subject)) dirty.add(subject);
    }
  };

  return {
    open(subject) {
      const session: AgentReportSession = {
        take(json) {
          const said = here.get(subject);
          if (said?.session !== session) return false;
          if (readReport(json, subject) === undefined) return false;
          said.json = json;
          dirty.add(subject);
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
    async run(signal) {
      await using lease = await untilAnswered(() => store.lease(LEASE_TTL_SECONDS, { signal }), {
        clock,
        logger,
        signal,
      });
      lease.onLost(() => {
        for (const subject of written.keys()) dirty.add(subject);
        written.clear();
      });
      const follow = async (): Promise<void> => {
        const watched = { prefix: AGENT_REPORTS_PREFIX };
        for await (const event of store.watch(watched, { signal })) onEvent(event);
      };
      await Promise.all([writeAll(lease, signal), follow()]);
    },
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
