/** A cluster as others are told how it is seen from here: the few things of its status that travel. Pure. */
import type { PeerSight } from '../wire/agent-report.ts';
import { isClockWrong, type LagStatus } from './lag.ts';
import type { PeerStatus } from './peer.ts';

/** Makes it of a status. `addressesRefused`: addresses that another cluster holds; default none. */
export function peerSight(status: PeerStatus, addressesRefused = 0): PeerSight {
  const { clusterId, state, notes, lag, certificateExpiresAt, certificateDueAt } = status;
  const lagMs = worstLag(lag);
  const isWrong = lag?.kind === 'measured' && isClockWrong(lag.clock);
  const counts = Object.entries(status.refused.byReason).map(([, count]) => count);
  return {
    name: status.name,
    own: status.own,
    ...(clusterId === undefined ? {} : { clusterId }),
    state: state.kind,
    since: status.since,
    reason: reasonOf(status),
    notes: notes.map(({ code, message }) => ({ code, message })),
    counts: { ...status.counts },
    ...(lagMs === undefined ? {} : { lagMs }),
    heldBack: Object.fromEntries(status.heldBack.map(({ kind, count }) => [kind, count])),
    refused: counts.reduce((sum, count) => sum + count, addressesRefused),
    ...(certificateExpiresAt === undefined ? {} : { certificateExpiresAt }),
    ...(certificateDueAt === undefined ? {} : { certificateDueAt }),
    ...(isWrong ? { clockWrongByMs: Math.round(lag.clock.differenceMs) } : {}),
  };
}

function reasonOf({ state, fileProblem }: PeerStatus): string {
  if ('reason' in state) return state.reason;
  if (state.kind === 'syncing') return `outstanding: ${state.outstanding.join(', ')}`;
  return fileProblem ?? '';
}

/** Of all kinds the one that comes latest: who asks how late a peer is wants to know that. */
function worstLag(lag: LagStatus | undefined): PeerSight['lagMs'] {
  if (lag?.kind !== 'measured') return undefined;
  const recent = Object.values(lag.recent);
  if (recent.length === 0) return undefined;
  const most = (of: (one: (typeof recent)[number]) => number): number =>
    Math.round(Math.max(...recent.map(of)) * 10) / 10;
  return { p50: most(({ p50Ms }) => p50Ms), p99: most(({ p99Ms }) => p99Ms) };
}
