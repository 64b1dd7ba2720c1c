import { KvError } from '../kvstore/kvstore.ts';
import type { MeshKind } from './cluster-sink.ts';
import type { HeartbeatView } from './heartbeat.ts';
import type { Life } from './liveness.ts';
import type { MirrorView } from './mirror-report.ts';
import { explainFailure } from './peer-error.ts';

/** Where a cluster stands. Whatever the state, what was read before stays in use until it is known to be gone. */
export type PeerState =
  | { readonly kind: 'connecting' }
  /** Its configuration was accepted; these kinds are still outstanding. */
  | { readonly kind: 'syncing'; readonly outstanding: readonly MeshKind[] }
  | { readonly kind: 'ready' }
  /**
   * It was read once and has given no sign of life for too long, or has not lasted long enough since. Its backends are
   * used last. `since`: milliseconds since 1970.
   */
  | { readonly kind: 'stale'; readonly reason: string; readonly since: number }
  /** Stale, and its nodes do not answer either: its backends have left the services. */
  | { readonly kind: 'withdrawn'; readonly reason: string }
  /** Somebody has to do something; tried again all the same. */
  | { readonly kind: 'failed'; readonly reason: string };

/** What is odd about a cluster although its state is fine. */
export interface PeerNote {
  readonly code:
    | 'connection-lost'
    | 'file-refused'
    | 'publisher-silent'
    | 'mirror-says'
    | 'mirror-silent'
    | 'mirror-unreadable';
  /** What, since when, and what to do. */
  readonly message: string;
}

/** Why a cluster is not being read. */
export interface PeerProblem {
  /** `disconnected` passes by itself; `failed` needs somebody. */
  readonly kind: 'disconnected' | 'failed';
  readonly reason: string;
}

/** How services use the backends of a cluster. */
export interface BackendUse {
  /** `none` withdrawn; `last`: used where no others remain; `gone`: not used. */
  readonly level: 'none' | 'last' | 'gone';
  /** Why, for people; empty for `none`. */
  readonly reason: string;
}

/** Everything that the state of a cluster follows from. */
export interface Situation {
  readonly name: string;
  readonly problem: PeerProblem | undefined;
  /** First of the watches that have lost their connection. */
  readonly broken: KvError | undefined;
  /** What is known to be wrong with certificates of that connection. */
  readonly finding?: string | undefined;
  /** Its configuration was accepted over the connection of now. */
  readonly isReading: boolean;
  readonly outstanding: readonly MeshKind[];
  /** Kinds of which it is not known yet, or known otherwise, that the server has what is held. */
  readonly unproven: readonly MeshKind[];
  /** Whether it has been ready since the process began. */
  readonly wasReady: boolean;
  readonly life: Life;
  /** Milliseconds since 1970 at which it became stale; undefined while it is not. */
  readonly staleSince: number | undefined;
  readonly use: BackendUse;
  /** Undefined: it is read without a mirror. */
  readonly mirror: MirrorView | undefined;
}

/** What is wrong with the connection, if anything is. */
export function problemOf(situation: Situation): PeerProblem | undefined {
  const { problem, broken, finding, name, wasReady } = situation;
  if (problem !== undefined) return problem;
  if (broken === undefined) return undefined;
  return { kind: problemKind(broken, wasReady), reason: explainFailure(broken, name, finding) };
}

/** A connection that worked once and only needs time is disconnected; all else needs somebody. */
export function problemKind(error: unknown, wasReady: boolean): PeerProblem['kind'] {
  const passing = error instanceof KvError && error.retryable && error.code !== 'unauthenticated';
  return passing && wasReady ? 'disconnected' : 'failed';
}

/** Whether everything of a cluster was read and compared over the connection of now, which works. */
export function isWhole(situation: Situation): boolean {
  return (
    situation.isReading &&
    situation.outstanding.length === 0 &&
    situation.unproven.length === 0 &&
    situation.problem === undefined &&
    situation.broken === undefined &&
    !isMirrorBad(situation.mirror)
  );
}

/** Whether a mirror has nothing good to say of the cluster: what the mirror's store answers is then no sign of its life. */
export function isMirrorBad(mirror: MirrorView | undefined): boolean {
  if (mirror === undefined || mirror.kind === 'none') return false;
  if (mirror.kind === 'silent') return true;
  const { state } = mirror.report;
  return state === 'stale' || state === 'failed' || state === 'connecting';
}

/** Whether the mirror has waited long enough already: a failure may be its first attempt after a restart. */
export function isMirrorSure(mirror: MirrorView | undefined): boolean {
  return (
    mirror?.kind === 'silent' || (mirror?.kind === 'reports' && mirror.report.state === 'stale')
  );
}

/** The state of a cluster. */
export function stateOf(situation: Situation): PeerState {
  const { life, use, wasReady, staleSince, isReading, outstanding } = situation;
  if (life.kind !== 'fresh' && use.level === 'gone') {
    return { kind: 'withdrawn', reason: `${use.reason}; ${staleReason(situation)}` };
  }
  if (life.kind !== 'fresh' && wasReady && staleSince !== undefined) {
    return { kind: 'stale', reason: staleReason(situation), since: staleSince };
  }
  const problem = problemOf(situation);
  if (problem !== undefined) {
    const isPassing = problem.kind === 'disconnected' && wasReady;
    return isPassing ? { kind: 'ready' } : { kind: 'failed', reason: problem.reason };
  }
  if (!isReading) return { kind: 'connecting' };
  return outstanding.length === 0 ? { kind: 'ready' } : { kind: 'syncing', outstanding };
}

/** Whether a stale cluster is on its way back: what is still said of it is no error. */
export function isRecovering(situation: Situation): boolean {
  const { life, isReading, outstanding, unproven, mirror } = situation;
  if (life.kind === 'returning') return true;
  if (problemOf(situation) !== undefined || isMirrorBad(mirror)) return false;
  return isReading && outstanding.length + unproven.length > 0;
}

/** Why it is stale, in words that do not change by the second. */
function staleReason(situation: Situation): string {
  const { life, mirror, isReading, outstanding, unproven } = situation;
  if (mirror?.kind === 'silent') {
    return 'its mirror in our own etcd is not written any more: look at our clustermesh-apiserver kvstoremesh';
  }
  if (mirror?.kind === 'reports' && isMirrorBad(mirror)) {
    return `its mirror says ${mirror.report.state}: ${mirror.report.reason}`;
  }
  const problem = problemOf(situation);
  if (problem !== undefined) return problem.reason;
  if (life.kind === 'returning') {
    return 'it is back and was read wholly; it is used again when that has lasted for some seconds';
  }
  if (isReading && outstanding.length > 0) {
    return `it answers again and is being read, outstanding: ${outstanding.join(', ')}`;
  }
  if (isReading && unproven.length > 0) {
    return `it was read again and is not yet known to have what is held here: ${unproven.join(', ')}`;
  }
  return isReading
    ? 'its server keeps the connection and does not answer: look at its clustermesh-apiserver and the network in between'
    : 'it is being connected again';
}

/** What else people should know. Times are milliseconds since 1970. */
export function notesOf(
  situation: Situation,
  facts: {
    readonly heartbeat: HeartbeatView | undefined;
    readonly fileRefused: string | undefined;
    readonly mirrorUnreadable: string | undefined;
    readonly staleAfterMs: number;
  },
): PeerNote[] {
  const notes: PeerNote[] = [];
  const problem = problemOf(situation);
  const { heartbeat, fileRefused, mirrorUnreadable } = facts;
  if (problem?.kind === 'disconnected' && situation.life.kind === 'fresh') {
    notes.push({
      code: 'connection-lost',
      message: `the connection is lost and being made again: ${problem.reason}; what is known stays in use, after ${facts.staleAfterMs / 1000} s of silence it is used last`,
    });
  }
  if (fileRefused !== undefined) {
    notes.push({
      code: 'file-refused',
      message: `what its file says now does not work, so the connection of before is kept: ${fileRefused}`,
    });
  }
  if (heartbeat?.isSilent === true && situation.life.kind === 'fresh') {
    notes.push({
      code: 'publisher-silent',
      message: `its etcd answers, but its heartbeat has not changed since ${new Date(heartbeat.seenAt).toISOString()}: nobody updates what it publishes, look at its clustermesh-apiserver`,
    });
  }
  if (situation.mirror?.kind === 'reports' && situation.life.kind === 'fresh') {
    const { state, reason } = situation.mirror.report;
    if (reason !== '')
      notes.push({ code: 'mirror-says', message: `our mirror: ${state}: ${reason}` });
  }
  if (situation.mirror?.kind === 'silent') {
    notes.push({
      code: 'mirror-silent',
      message: `our mirror has not reported on it for ${Math.round(situation.mirror.silentMs / 1000)} s: look at our clustermesh-apiserver kvstoremesh; nothing is withdrawn because of it`,
    });
  }
  if (mirrorUnreadable !== undefined) {
    notes.push({
      code: 'mirror-unreadable',
      message: `the report of our mirror cannot be read, upgrade this agent: ${mirrorUnreadable}`,
    });
  }
  return notes;
}
