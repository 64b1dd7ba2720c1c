/** The certificate by which one peer knows us: how long it lasts, when another one is due, and what went wrong on the way to it. */
import { X509Certificate } from 'node:crypto';
import { type Backoff, createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { ClientPair } from './peer-enrolment.ts';

/** Certificates begin so much before they are made. */
const SLACK_MS = 300_000;
const RETRY_MIN_MS = 2000;
const RETRY_MAX_MS = 60_000;
/** A peer that is not read with a certificate that looks good is asked for another one: after this time, then ever more rarely. */
const DOUBT_MIN_MS = 5000;
const DOUBT_MAX_MS = 60_000;

/** Why there is no certificate, or no newer one. */
export interface CertificateProblem {
  readonly text: string;
  /** The peer does not have us for a peer: until it has, no certificate of its helps. */
  readonly isUnknownThere: boolean;
}

/** The certificate of one peer. */
export interface ClientCertificate {
  readonly pair: ClientPair | undefined;
  /** Milliseconds since 1970; undefined without a certificate. */
  readonly notAfter: number | undefined;
  /** Undefined: nothing is wrong. */
  readonly problem: CertificateProblem | undefined;
  /** Milliseconds until another one is to be asked for; zero: now. */
  dueIn(): number;
  take(pair: ClientPair): void;
  /** It could not be had: it is asked for again after a while. */
  fail(problem: CertificateProblem): void;
  /** The peer is not read although there is a certificate: another one may help. */
  doubt(): void;
  /** The peer is read by the certificate that there is. */
  believe(): void;
}

/** Begins with what there is. */
export function createClientCertificate(
  first: ClientPair | undefined,
  { clock }: { readonly clock: Clock },
): ClientCertificate {
  const backoff: Backoff = createBackoff({ minMs: RETRY_MIN_MS, maxMs: RETRY_MAX_MS });
  let pair: ClientPair | undefined;
  let notAfter: number | undefined;
  /** By the monotonic clock. */
  let dueAt = clock.monotonic();
  let triedAt = Number.NEGATIVE_INFINITY;
  let problem: CertificateProblem | undefined;
  const doubts = createBackoff({ minMs: 2 * DOUBT_MIN_MS, maxMs: DOUBT_MAX_MS });
  let doubtMs = DOUBT_MIN_MS;

  const take = (next: ClientPair, isNew: boolean): void => {
    const { validFrom, validTo } = new X509Certificate(next.certificate);
    const now = clock.now();
    const end = Date.parse(validTo);
    const begin = isNew ? now : Math.min(now, Date.parse(validFrom) + SLACK_MS);
    const due = begin + ((end - begin) * 2) / 3;
    pair = next;
    notAfter = end;
    dueAt = clock.monotonic() + Math.max(0, due - now);
  };
  if (first !== undefined) take(first, false);
  return {
    get pair() {
      return pair;
    },
    get notAfter() {
      return notAfter;
    },
    get problem() {
      return problem;
    },
    dueIn: () => Math.max(0, dueAt - clock.monotonic()),
    take(next) {
      take(next, true);
      triedAt = clock.monotonic();
      problem = undefined;
      backoff.reset();
    },
    fail(why) {
      problem = why;
      triedAt = clock.monotonic();
      dueAt = triedAt + backoff.next();
    },
    doubt() {
      if (clock.monotonic() - triedAt < doubtMs) return;
      dueAt = clock.monotonic();
      doubtMs = doubts.next();
    },
    believe() {
      doubts.reset();
      doubtMs = DOUBT_MIN_MS;
    },
  };
}
