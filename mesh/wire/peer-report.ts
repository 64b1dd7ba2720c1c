/** What a mirror says of a peer that it mirrors: readers of the mirror see the peer only through it. */
import {
  encodeGoJson,
  type FieldPath,
  failField,
  parseJsonObject,
  readString,
  readUint,
} from './json.ts';
import { readSchema } from './schema.ts';

/** States of a mirrored peer. */
export const PEER_REPORT_STATES = ['connecting', 'syncing', 'ready', 'stale', 'failed'] as const;
/** One of `PEER_REPORT_STATES`. */
export type PeerReportState = (typeof PEER_REPORT_STATES)[number];

/** A report, as it travels under `isthmus/mesh/peer/<cluster>`. Times are milliseconds since 1970. */
export interface PeerReport {
  readonly state: PeerReportState;
  /** Since when, by the mirror's clock. */
  readonly since: number;
  /** Why, for people; empty where there is nothing to say. */
  readonly reason: string;
  /** When the mirror last saw the peer's own heartbeat change, by the mirror's clock; null if never. */
  readonly heartbeatAt: number | null;
  /** The peer's clock minus the mirror's; null while it is not known. */
  readonly clockDifferenceMs: number | null;
}

const SCHEMA = 1;

/** Encodes a report. */
export function encodePeerReport(report: PeerReport): string {
  return encodeGoJson({
    schema: SCHEMA,
    state: report.state,
    since: report.since,
    reason: report.reason,
    heartbeatAt: report.heartbeatAt,
    clockDifferenceMs: report.clockDifferenceMs,
  });
}

/** Decodes a report. Throws WireError naming key and field, and for a schema that is not known. */
export function decodePeerReport(value: Buffer | string, key: string): PeerReport {
  const object = parseJsonObject(value, key);
  readSchema(key, object, SCHEMA);
  const at = (field: string): FieldPath => ({ key, field });
  const state = PEER_REPORT_STATES.find((candidate) => candidate === object.state);
  if (state === undefined) failField(at('state'), object.state, PEER_REPORT_STATES.join(', '));
  return {
    state,
    since: readTime(at('since'), object.since),
    reason: readString(at('reason'), object.reason),
    heartbeatAt:
      object.heartbeatAt === null || object.heartbeatAt === undefined
        ? null
        : readTime(at('heartbeatAt'), object.heartbeatAt),
    clockDifferenceMs: readDifference(at('clockDifferenceMs'), object.clockDifferenceMs),
  };
}

function readTime(at: FieldPath, found: unknown): number {
  return readUint(at, found, Number.MAX_SAFE_INTEGER);
}

function readDifference(at: FieldPath, found: unknown): number | null {
  if (found === null || found === undefined) return null;
  if (typeof found !== 'number' || !Number.isSafeInteger(found)) {
    failField(at, found, 'a whole number of milliseconds');
  }
  // JSON has a negative zero, which is no other difference.
  return found === 0 ? 0 : found;
}
