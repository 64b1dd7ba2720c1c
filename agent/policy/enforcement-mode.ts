/** Whether policy holds: as policies say, always, or never. Pure. */

/** Values of --enable-policy, as Cilium has them. */
export const ENFORCEMENT_MODES = ['default', 'always', 'never'] as const;

/**
 * One of ENFORCEMENT_MODES. `default`: an endpoint is open in a direction until a policy selects it for that direction.
 * `always`: what no policy allows is denied, also where none selects the endpoint. `never`: everything is open.
 */
export type EnforcementMode = (typeof ENFORCEMENT_MODES)[number];

/** Directions in which what no row allows is dropped. */
export interface Enforcement {
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
}
