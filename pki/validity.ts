/** How far along its life a certificate is. Pure. */
import type { X509Certificate } from 'node:crypto';

const DAY_MS = 86_400_000;
const SOON_MS = 30 * DAY_MS;

/**
 * `good`; `due`: two thirds of its life are over, it should be renewed; `ending`: it is due, and ends within 30 days: of a life
 * shorter than 90 days that is its whole last third; `expired`; `not-yet-valid`.
 */
export type ValidityState = 'good' | 'due' | 'ending' | 'expired' | 'not-yet-valid';

/** Judges a certificate at `now`, in milliseconds since 1970. */
export function validityOf(certificate: X509Certificate, now: number): ValidityState {
  const [from, to] = [Date.parse(certificate.validFrom), Date.parse(certificate.validTo)];
  if (now > to) return 'expired';
  if (now < from) return 'not-yet-valid';
  if (now < renewalTime(certificate)) return 'good';
  return to - now <= SOON_MS ? 'ending' : 'due';
}

/** When two thirds of a certificate's life are over, in milliseconds since 1970. */
export function renewalTime(certificate: X509Certificate): number {
  const [from, to] = [Date.parse(certificate.validFrom), Date.parse(certificate.validTo)];
  return from + ((to - from) * 2) / 3;
}
