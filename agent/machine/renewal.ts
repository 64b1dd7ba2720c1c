/** The machine's certificate is renewed at two thirds of its life, each time with a new key. */
import { X509Certificate } from 'node:crypto';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { callUnary } from '../../mesh/runtime/grpc-call.ts';
import { clientCredentials } from '../../mesh/runtime/grpc-client.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { renewProofInput } from '../../mesh/wire/key-proof.ts';
import { certificatesIn, checkIssued, dateProblem, toMachineError } from './enrolment.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import {
  certificatesWrittenAt,
  type MachineCertificates,
  readCertificates,
  writeCertificates,
} from './machine-files.ts';
import { makeMachineKey } from './machine-key.ts';
import type { MachineRecord } from './machine-record.ts';
import { hostPortText } from './server-probe.ts';

const SCHEMA = 1;
const TIMEOUT_MS = 15_000;
const LIFE_PART = 2 / 3;
/** The latest of a renewal's attempts come in this part of what is left, so that short lives are tried often enough. */
const RETRY_PART = 1 / 20;
const MIN_RETRY_MS = 250;
const MAX_RETRY_MS = 60_000;
/** The clock may be set meanwhile, and other programs may renew: the file is looked at again this often. */
const LOOK_EACH_MS = 60_000;

/** Keeps the certificate fresh. */
export interface Renewal {
  /** Renews until `signal` aborts; never rejects for want of a registry. */
  run(signal: AbortSignal): Promise<void>;
  /** Takes authorities that the cluster tells; nothing is done when they are those in use. Throws MachineError `disk`. */
  setTrustBundle(pem: string): void;
  /** What a person should know: a renewal that fails, a certificate that has run out. */
  problems(): readonly string[];
}

/** Makes a renewal. `onRenewed` is called when new files are in use. */
export function createRenewal(options: {
  readonly stateDir: string;
  readonly record: Pick<MachineRecord, 'name' | 'registries' | 'serverName'>;
  readonly onRenewed: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}): Renewal {
  const { stateDir, record, onRenewed, clock, logger } = options;
  let failure: string | undefined;

  const renewOnce = async (
    certificates: MachineCertificates,
    registry: HostPort,
    signal: AbortSignal,
  ): Promise<void> => {
    const key = await makeMachineKey();
    const commonName = `machine-${record.name}`;
    const proof = key.sign(renewProofInput({ commonName, publicKey: key.publicDer }));
    const what = {
      proto: 'mesh/wire/registry.proto',
      service: 'isthmus.registry.v1.Registry',
      method: 'Renew',
    };
    const material = {
      ca: Buffer.from(certificates.ca),
      cert: Buffer.from(certificates.certificate),
      key: Buffer.from(certificates.key),
    };
    const request = { schema: SCHEMA, public_key: key.publicDer, proof };
    const answer = await callUnary(what, request, {
      server: registry,
      credentials: clientCredentials(material, record.serverName),
      tlsName: record.serverName,
      timeoutMs: TIMEOUT_MS,
      signal,
    }).catch((error: unknown) => {
      throw toMachineError(error, hostPortText(registry));
    });
    const issued = readRenewed(answer);
    checkIssued(issued, { key, commonName });
    const { certificate, trustBundle: ca } = issued;
    writeCertificates(stateDir, { ca, certificate, key: key.privatePem });
  };

  const read = (): MachineCertificates => {
    const certificates = readCertificates(stateDir);
    if (certificates === undefined) {
      throw new MachineError(
        'state',
        `the machine's certificates in ${stateDir} are gone: run clustermesh vm leave and join again`,
      );
    }
    return certificates;
  };

  /** Certificates are valid from some minutes before they were made, so what counts is when they came here. */
  const lifeOf = ({ certificate }: MachineCertificates): { from: number; to: number } => {
    const { validFrom, validTo } = new X509Certificate(certificate);
    const cameAt = Math.min(clock.now(), certificatesWrittenAt(stateDir));
    return { from: Math.max(Date.parse(validFrom), cameAt), to: Date.parse(validTo) };
  };

  /** Waits until two thirds of the life are over, then asks one registry after the other. Resolves when files are new. */
  const renewInTime = async (signal: AbortSignal): Promise<void> => {
    for (;;) {
      const { from, to } = lifeOf(read());
      const waitMs = from + (to - from) * LIFE_PART - clock.now();
      if (waitMs <= 0) break;
      await clock.sleep(Math.min(waitMs, LOOK_EACH_MS), signal);
    }
    for (let attempt = 0; ; attempt += 1) {
      const certificates = read();
      const problem = dateProblem(certificates.certificate, clock.now());
      const registry = record.registries[attempt % record.registries.length];
      if (registry === undefined) throw new MachineError('state', 'no registry is known');
      try {
        // Who shows a certificate that has run out is not let in: only a person can help.
        if (problem !== undefined) throw new MachineError('untrusted', problem);
        await renewOnce(certificates, registry, signal);
        return;
      } catch (error) {
        signal.throwIfAborted();
        report(error);
      }
      const left = lifeOf(certificates).to - clock.now();
      const backoff = Math.min(MAX_RETRY_MS, Math.max(MIN_RETRY_MS, left * RETRY_PART));
      await clock.sleep(backoff * (0.5 + Math.random() / 2), signal);
    }
  };

  const report = (error: unknown): void => {
    const reason = reasonOf(error);
    if (reason !== failure)
      logger.warn({ reason }, 'the certificate of this machine cannot be renewed');
    failure = reason;
  };

  return {
    async run(signal) {
      const backoff = createBackoff({ minMs: MIN_RETRY_MS, maxMs: MAX_RETRY_MS });
      while (!signal.aborted) {
        try {
          await renewInTime(signal);
          failure = undefined;
          backoff.reset();
          logger.info(
            { until: new Date(lifeOf(read()).to).toISOString() },
            'the certificate of this machine was renewed',
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
      if (pem === '' || namesOf(pem) === namesOf(certificates.ca)) return;
      // The certificate is as old as before.
      writeCertificates(stateDir, { ...certificates, ca: pem }, certificatesWrittenAt(stateDir));
      logger.info('the authorities that this machine believes have changed');
      onRenewed();
    },
    problems: () =>
      failure === undefined
        ? []
        : [`the certificate of this machine cannot be renewed: ${failure}`],
  };
}

/** The certificates of a bundle, whatever their order and the space between them. */
function namesOf(pem: string): string {
  return certificatesIn(pem)
    .map(({ fingerprint256 }) => fingerprint256)
    .sort()
    .join();
}

function readRenewed(answer: object): { certificate: string; trustBundle: string } {
  const { certificate, trust_bundle: bundle }: { certificate?: unknown; trust_bundle?: unknown } =
    answer;
  if (!Buffer.isBuffer(certificate) || !Buffer.isBuffer(bundle)) {
    throw new MachineError(
      'untrusted',
      "the registry's answer holds no certificate: bring agent and apiserver to one version",
    );
  }
  return { certificate: certificate.toString('utf8'), trustBundle: bundle.toString('utf8') };
}
