import type { PeerLife } from '../../mesh/remote/peer.ts';
import type { BackendUse } from '../../mesh/remote/peer-state.ts';
import type { PathVerdict } from './path-record.ts';

/** When backends of a silent cluster are withdrawn. */
export const WITHDRAW_MODES = ['auto', 'always', 'never'] as const;
/** One of `WITHDRAW_MODES`: `always` takes the last backends of a service, too; `never` keeps them as if nothing were. */
export type WithdrawMode = (typeof WITHDRAW_MODES)[number];

/** What the use of a cluster's backends follows from. */
export interface DecisionInput {
  readonly life: Pick<PeerLife, 'isStale' | 'silentMs' | 'cause'>;
  readonly path: PathVerdict;
  /** What was decided before. */
  readonly before: BackendUse;
  readonly mode: WithdrawMode;
  /** Silence after which they may be withdrawn; 0: never. */
  readonly ttlMs: number;
}

const NONE: BackendUse = { level: 'none', reason: '' };

/**
 * Decides how the backends of a cluster are used. They are taken away only when its control plane has been silent for the
 * whole time and none of its nodes answers; a cluster that is merely silent is used last. When what is silent is our own
 * mirror, nothing is known of the cluster, and everything stays as it is.
 */
export function decideUse({ life, path, before, mode, ttlMs }: DecisionInput): BackendUse {
  if (!life.isStale || mode === 'never') return NONE;
  if (life.cause === 'mirror') return before;
  if (before.level === 'gone' && path.kind !== 'alive') return before;
  if (ttlMs > 0 && life.silentMs >= ttlMs && path.kind === 'dead') {
    const nodes = path.nodesAsked === 0 ? 'no node of it is known' : 'none of its nodes answers';
    return {
      level: 'gone',
      reason: `silent for more than ${Math.round(ttlMs / 1000)} s, and ${nodes}`,
    };
  }
  return { level: 'last', reason: 'its control plane is silent' };
}

/** What becomes of a decision when an operator has taken the cluster out of use. */
export function drainUse(use: BackendUse): BackendUse {
  if (use.level === 'gone') return use;
  return {
    level: 'last',
    reason: 'drained: used only where no other backend remains, until it is undrained',
  };
}
