/** The machine's certificate is renewed in time, each time with a new key. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import { callUnary } from '../../mesh/runtime/grpc-call.ts';
import { clientCredentials } from '../../mesh/runtime/grpc-client.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { renewProofInput } from '../../mesh/wire/key-proof.ts';
import { type CertificateUpkeep, createCertificateUpkeep } from './certificate-upkeep.ts';
import { checkIssued, dateProblem, toMachineError } from './enrolment.ts';
import { MachineError } from './machine-error.ts';
import { type MachineCertificates, readCertificates, writeCertificates } from './machine-files.ts';
import { makeMachineKey } from './machine-key.ts';
import type { MachineRecord } from './machine-record.ts';
import { hostPortText } from './server-probe.ts';

const SCHEMA = 1;
const TIMEOUT_MS = 15_000;

/** Keeps the certificate fresh. */
export interface Renewal extends Pick<CertificateUpkeep, 'run' | 'setTrustBundle' | 'setIssuer'> {
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

  const upkeep = createCertificateUpkeep({
    stateDir,
    whose: 'this machine',
    read,
    async renew(attempt, signal) {
      const certificates = read();
      const problem = dateProblem(certificates.certificate, clock.now());
      const registry = record.registries[attempt % record.registries.length];
      if (registry === undefined) throw new MachineError('state', 'no registry is known');
      // Who shows a certificate that has run out is not let in: only a person can help.
      if (problem !== undefined) throw new MachineError('untrusted', problem);
      await renewOnce(certificates, registry, signal);
    },
    onRenewed,
    clock,
    logger,
  });
  return {
    run: upkeep.run,
    setTrustBundle: upkeep.setTrustBundle,
    setIssuer: upkeep.setIssuer,
    problems: () =>
      upkeep.failure === undefined
        ? []
        : [`the certificate of this machine cannot be renewed: ${upkeep.failure}`],
  };
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
