/**
 * The identity under which an endpoint's packets go, which follows the one it has after a while (Cilium's
 * `--identity-change-grace-period`): until then, whoever gets them has heard of it. Other clusters keep a former identity in
 * force for much longer than that.
 */
import { MINIMUM_ALLOCATED_IDENTITY, type NumericIdentity } from '../../mesh/wire/ids.ts';

/** Endpoints whose identity has changed lately. No clock: who calls says what time it is, in monotonic milliseconds. */
export interface IdentityGrace {
  /** Under which identity an endpoint sends that has `identity` and sent under `sent` until now. */
  follow(
    endpointId: number,
    identities: { readonly identity: NumericIdentity; readonly sent: NumericIdentity },
    now: number,
  ): NumericIdentity;
  forget(endpointId: number): void;
  /** Endpoints whose time has come, and which are to be asked about again. */
  takeDue(now: number): number[];
  /** When `takeDue` will have something; undefined: never, as things are. */
  nextAt(): number | undefined;
}

/** Makes an empty one. `graceMs` 0: packets go under the new identity at once. */
export function createIdentityGrace(graceMs: number): IdentityGrace {
  /** What each is on its way to, and when it gets there. */
  const waiting = new Map<number, { readonly identity: NumericIdentity; readonly at: number }>();
  return {
    follow(endpointId, { identity, sent }, now) {
      // Whoever had none yet has sent nothing that anybody could know.
      if (identity === sent || graceMs === 0 || !isAllocated(identity) || !isAllocated(sent)) {
        waiting.delete(endpointId);
        return identity;
      }
      const found = waiting.get(endpointId);
      if (found?.identity === identity) {
        if (now < found.at) return sent;
        waiting.delete(endpointId);
        return identity;
      }
      waiting.set(endpointId, { identity, at: now + graceMs });
      return sent;
    },
    forget(endpointId) {
      waiting.delete(endpointId);
    },
    takeDue: (now) => [...waiting].filter(([, { at }]) => at <= now).map(([id]) => id),
    nextAt() {
      let next: number | undefined;
      for (const { at } of waiting.values()) next = Math.min(at, next ?? at);
      return next;
    },
  };
}

function isAllocated(identity: NumericIdentity): boolean {
  return identity >= MINIMUM_ALLOCATED_IDENTITY;
}
