/** What the registry is told of how this agent does: once at the beginning, soon after what matters, seldom for numbers alone. */
import { peerSight } from '../../mesh/remote/peer-sight.ts';
import {
  AGENT_REPORT_SCHEMA,
  type AgentReport,
  encodeAgentReport,
} from '../../mesh/wire/agent-report.ts';
import type { AgentStatus } from '../api/status.ts';

/** Numbers alone are told no oftener than this. */
const NUMBERS_EVERY_MS = 60_000;
/** Tables that are less full than this are of no interest. */
const PRESSURE_TOLD = 0.5;

/** Makes the report of a status. `kind`: what this host is. */
export function agentReportOf(status: AgentStatus, kind: AgentReport['kind']): AgentReport {
  const maps = status.datapath?.garbage.maps ?? [];
  const errors = status.policies.flatMap(({ policy, problems, lastError }) => [
    ...problems.map(({ message }) => `${policy}: ${message}`),
    ...(lastError === undefined ? [] : [`${policy}: ${lastError}`]),
  ]);
  return {
    schema: AGENT_REPORT_SCHEMA,
    kind,
    name: status.node,
    version: status.version,
    startedAt: Date.parse(status.startedAt),
    ready: status.ready,
    missing: [...status.missing],
    notes: [...status.notes, ...status.conflicts],
    clusters: status.clusters.map((cluster) => peerSight(cluster, cluster.addressesRefused)),
    clustersLeftOut: 0,
    policies: { count: status.policies.length, errors },
    pressure: maps
      .filter(({ entries, maxEntries }) => entries > maxEntries * PRESSURE_TOLD)
      .map(({ map, entries, maxEntries }) => ({ map, used: entries, size: maxEntries })),
    kernel: status.tables.flatMap(({ name, failed, lastError }) =>
      failed === 0
        ? []
        : [`table ${name}: ${failed} rows cannot be written: ${lastError ?? 'unknown'}`],
    ),
    endpoints: status.endpoints.length,
    ...(status.datapath === undefined ? {} : { mtu: status.datapath.tunnelMtu }),
    routingMode: status.datapath?.routingMode ?? '',
  };
}

/** Remembers what one session was told. */
export interface AgentReporter {
  /** JSON of the report if it is to be told at this time of a monotonic clock, in milliseconds; undefined: it can wait. */
  next(report: AgentReport, now: number): string | undefined;
}

/** Makes one for a session that was told nothing. */
export function createAgentReporter(): AgentReporter {
  let told: { readonly json: string; readonly essence: string; readonly at: number } | undefined;
  return {
    next(report, now) {
      const essence = essenceOf(report);
      const isSame = told?.essence === essence;
      if (isSame && told !== undefined && now - told.at < NUMBERS_EVERY_MS) return undefined;
      const json = encodeAgentReport(report);
      if (told?.json === json) return undefined;
      told = { json, essence, at: now };
      return json;
    },
  };
}

/** What is told at once: all but numbers that change with every pod. */
function essenceOf(report: AgentReport): string {
  const { endpoints: _endpoints, pressure, clusters, ...rest } = report;
  return JSON.stringify({
    ...rest,
    pressure: pressure.map(({ map, used, size }) => [map, Math.floor((used / size) * 10)]),
    clusters: clusters.map(({ counts: _counts, lagMs: _lag, refused, ...cluster }) => ({
      ...cluster,
      isRefused: refused > 0,
    })),
  });
}
