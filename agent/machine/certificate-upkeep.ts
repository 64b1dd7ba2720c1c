/** A certificate that was issued for a time is replaced at two thirds of its life, whatever has to be done for another one. */
import { X509Certificate } from 'node:crypto';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { certificatesIn } from './enrolment.ts';
import { reasonOf } from './machine-error.ts';
import {
  certificatesWrittenAt,
  type MachineCertificates,
  writeCertificates,
} from './machine-files.ts';

const LIFE_PART = 2 / 3;
/** The latest of the attempts come in this part of what is left, so that short lives are tried often enough. */
const RETRY_PART = 1 / 20;
const MIN_RETRY_MS = 250;
const MAX_RETRY_MS = 60_000;
/** Who has no valid certificate does nothing else than wait for one: it is tried more often. */
const MAX_RETRY_WITHOUT_MS = 10_000;
/** Where an authority is replaced, not all that have certificates of it come at once, nor later than this part of their life. */
const MAX_SPREAD_MS = 30_000;
const SPREAD_PART = 1 / 20;
/** The clock may be set meanwhile, and other programs may renew: the file is looked at again this often. */
const LOOK_EACH_MS = 60_000;

/** Keeps a certificate fresh. */
export interface CertificateUpkeep {
  /** Renews until `signal` aborts; never rejects for want of somebody who issues. */
  run(signal: AbortSignal): Promise<void>;
  /** Takes authorities that the cluster tells; nothing is done when they are those in use. Throws MachineError `disk`. */
  setTrustBundle(pem: string): void;
  /**
   * Takes the authority that signs at present, SHA-256 in lower-case hex: a certificate of another one is replaced soon, since the
   * other may be believed no more before two thirds of its life are over.
   */
  setIssuer(fingerprint: string): void;
  /** Looks at once whether another certificate is needed. */
  lookNow(): void;
  /** Why the latest attempt has failed; undefined: it has not. */
  readonly failure: string | undefined;
}

/** Makes it for the certificates of a state directory. `onRenewed` is called when new files are in use. */
export function createCertificateUpkeep(options: {
  readonly stateDir: string;
  /** Whose it is, for the log: `this machine`. */
  readonly whose: string;
  /** Undefined: there are none, which is as bad as if they had run out. Throws MachineError. */
  readonly read: () => MachineCertificates | undefined;
  /** Gets others and writes them. `attempt` counts from 0. Throws MachineError. */
  readonly renew: (attempt: number, signal: AbortSignal) => Promise<void>;
  /** Whether the certificate is of no use whatever its age. Default: it is of use. */
  readonly isSpoilt?: () => boolean;
  readonly onRenewed: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}): CertificateUpkeep {
  const { stateDir, whose, read, renew, isSpoilt, onRenewed, clock, logger } = options;
  let failure: string | undefined;
  const bell = createBell();
  let issuer = '';
  /** Of the clock: when a certificate of another authority is to be replaced. */
  let leaveAt: number | undefined;

  /** Certificates are valid from some minutes before they were made, so what counts is when they came here. */
  const life = (): { readonly from: number; readonly to: number } => {
    const certificates = read();
    if (certificates === undefined) return { from: 0, to: 0 };
    const { validFrom, validTo } = new X509Certificate(certificates.certificate);
    const cameAt = Math.min(clock.now(), certificatesWrittenAt(stateDir));
    return { from: Math.max(Date.parse(validFrom), cameAt), to: Date.parse(validTo) };
  };
  const report = (error: unknown): void => {
    const reason = reasonOf(error);
    if (reason !== failure)
      logger.warn({ reason }, `the certificate of ${whose} cannot be renewed`);
    failure = reason;
  };
  /** How long until two thirds of the life are over, in milliseconds. */
  const dueInMs = (): number => {
    if (isSpoilt?.() === true) return 0;
    const { from, to } = life();
    const left = from + (to - from) * LIFE_PART - clock.now();
    return leaveAt === undefined ? left : Math.min(left, leaveAt - clock.monotonic());
  };
  /** Waits until it is time, and resolves when files are new, or when there is no need any more: then to false. */
  const renewInTime = async (signal: AbortSignal): Promise<boolean> => {
    for (let waitMs = dueInMs(); waitMs > 0; waitMs = dueInMs()) {
      await bell.wait(Math.min(waitMs, LOOK_EACH_MS), clock);
      signal.throwIfAborted();
      bell.clear();
    }
    const backoff = createBackoff({ minMs: MIN_RETRY_MS, maxMs: MAX_RETRY_WITHOUT_MS });
    for (let attempt = 0; ; attempt += 1) {
      try {
        await renew(attempt, signal);
        leaveAt = undefined;
        return true;
      } catch (error) {
        signal.throwIfAborted();
        report(error);
      }
      const leftMs = life().to - clock.now();
      const pauseMs = Math.min(MAX_RETRY_MS, Math.max(MIN_RETRY_MS, leftMs * RETRY_PART));
      const jittered = pauseMs * (0.5 + Math.random() / 2);
      await clock.sleep(leftMs > 0 ? jittered : backoff.next(), signal);
      if (dueInMs() > 0) return false;
    }
  };

  return {
    async run(signal) {
      signal.addEventListener('abort', bell.ring, { once: true });
      const backoff = createBackoff({ minMs: MIN_RETRY_MS, maxMs: MAX_RETRY_MS });
      while (!signal.aborted) {
        try {
          const isNew = await renewInTime(signal);
          failure = undefined;
          backoff.reset();
          if (!isNew) continue;
          logger.info(
            { until: new Date(life().to).toISOString() },
            `the certificate of ${whose} was renewed`,
          );
          onRenewed();
        } catch (error) {
          if (signal.aborted) return;
          report(error);
          await clock.sleep(backoff.next(), signal).catch(() => undefined);
        }
      }
    },
    setTrustBundle(pem) {
      const certificates = read();
      if (certificates === undefined || pem === '') return;
      if (namesOf(pem) === namesOf(certificates.ca)) return;
      // The certificate is as old as before.
      writeCertificates(stateDir, { ...certificates, ca: pem }, certificatesWrittenAt(stateDir));
      logger.info(`the authorities that ${whose} believes have changed`);
      onRenewed();
    },
    setIssuer(fingerprint) {
      // Told again of one that has been asked for: replicas need not agree at every moment.
      if (fingerprint === '' || fingerprint === issuer) return;
      issuer = fingerprint;
      const certificates = read();
      const [, signing] =
        certificates === undefined ? [] : certificatesIn(certificates.certificate);
      if (signing === undefined || hexOf(signing) === fingerprint) return;
      const { from, to } = life();
      const spreadMs = Math.min(MAX_SPREAD_MS, (to - from) * SPREAD_PART);
      leaveAt = clock.monotonic() + Math.random() * spreadMs;
      bell.ring();
    },
    lookNow: bell.ring,
    get failure() {
      return failure;
    },
  };
}

function hexOf({ fingerprint256 }: X509Certificate): string {
  return fingerprint256.replaceAll(':', '').toLowerCase();
}

/** The certificates of a bundle, whatever their order and the space between them. */
function namesOf(pem: string): string {
  return certificatesIn(pem)
    .map(({ fingerprint256 }) => fingerprint256)
    .sort()
    .join();
}
