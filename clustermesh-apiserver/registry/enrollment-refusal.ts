/** Why a machine is not enrolled or its certificate not renewed, in words for people. Pure. */
import type { TokenState } from './token-record.ts';

/** Why an enrolment is refused; it is counted by these. */
export type EnrollmentRefusalReason =
  | 'malformed'
  | 'rate-limited'
  | 'bad-token'
  | 'token-expired'
  | 'token-revoked'
  | 'token-used-up'
  | 'bad-name'
  | 'unknown-peer'
  | 'wrong-cluster'
  | 'name-taken'
  | 'bad-key'
  | 'bad-address'
  | 'address-translated'
  | 'not-offered'
  | 'unavailable';

/** An enrolment that is refused. */
export interface EnrollmentRefusal {
  readonly kind: 'refused';
  readonly reason: EnrollmentRefusalReason;
  /** What is wrong and what to do. */
  readonly details: string;
}

/** One text for every token that does not fit: which part of it is wrong is nobody's business. */
export const BAD_TOKEN: EnrollmentRefusal = refusal(
  'bad-token',
  'the token is not known here: it was mistyped, it is of another cluster, or it is gone from the registry; make a new one with `clustermesh vm token create`',
);

/** What is said to somebody whose address is not what the cluster sees. */
export function translated(observed: string, claimed: readonly string[]): EnrollmentRefusal {
  return refusal(
    'address-translated',
    `this call came from ${observed}, which is none of the machine's addresses (${claimed.join(', ')}): addresses are translated on the way (NAT), and plain VXLAN does not cross that, so pods could not answer. Give the machine an address that the cluster's nodes reach as it is, or join both by a routed network or VPN and enrol over it`,
  );
}

/** What is said of a token that was good once, to somebody who has its secret. */
export function tokenOver(state: Exclude<TokenState, 'usable'> | 'unknown'): EnrollmentRefusal {
  const remedy = 'make a new one with `clustermesh vm token create`';
  switch (state) {
    case 'expired':
      return refusal('token-expired', `the token has expired; ${remedy}`);
    case 'revoked':
      return refusal('token-revoked', `the token was revoked; ${remedy}`);
    case 'used-up':
      return refusal(
        'token-used-up',
        `the token has been used by as many machines as it was made for; ${remedy}, and if you do not know who used it, see \`clustermesh vm token list\``,
      );
    case 'unknown':
      return BAD_TOKEN;
    default:
      return state satisfies never;
  }
}

/** Makes a refusal. */
export function refusal(reason: EnrollmentRefusalReason, details: string): EnrollmentRefusal {
  return { kind: 'refused', reason, details };
}
