/** A new certificate for a machine that has one: for a new key, and for as long as the machine is one of the cluster's. */

import { z } from 'zod';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { renewProofInput } from '../../mesh/wire/key-proof.ts';
import type { IssuingAuthority } from './certificate-authority.ts';
import { isProven, readClaimedKey } from './key-claim.ts';
import type { MachineBook } from './machine-book.ts';
import { machineNameOf } from './machine-record.ts';

const SCHEMA = 1;

/** What came of a call. `code` tells whether another attempt may help. */
export type RenewalOutcome =
  | { readonly kind: 'renewed'; readonly certificate: string; readonly trustBundle: string }
  | {
      readonly kind: 'refused';
      readonly code: 'malformed' | 'forbidden' | 'unavailable';
      readonly details: string;
    };

/** Who asks, by the certificate that the call came with. */
export interface RenewalCaller {
  readonly commonName: string;
  /** SHA-256 of its public key (SPKI, DER) in lower-case hex. */
  readonly publicKeyHash: string;
  readonly signal: AbortSignal;
}

/** Renews certificates. */
export interface Renewal {
  renew(message: unknown, caller: RenewalCaller): Promise<RenewalOutcome>;
  /** The authority that signs at present: SHA-256 of its certificate in lower-case hex. */
  readonly issuer: string;
  /** Certificates renewed, and calls refused. */
  readonly counts: { readonly renewed: number; readonly refused: number };
}

const requestSchema = z.object({
  schema: z.number().default(0),
  public_key: z.instanceof(Uint8Array).default(new Uint8Array()),
  proof: z.instanceof(Uint8Array).default(new Uint8Array()),
});

/** Makes it. */
export function createRenewal(options: {
  readonly machines: Pick<MachineBook, 'get' | 'renew'>;
  readonly authority: Pick<
    IssuingAuthority,
    'state' | 'trustBundle' | 'fingerprint' | 'notAfter' | 'issue'
  >;
  readonly logger: Logger;
}): Renewal {
  const { machines, authority, logger } = options;
  const counts = { renewed: 0, refused: 0 };

  const decide = async (
    message: unknown,
    { commonName, publicKeyHash, signal }: RenewalCaller,
  ): Promise<RenewalOutcome> => {
    const name = machineNameOf(commonName);
    if (name === undefined) {
      return refused('forbidden', `${JSON.stringify(commonName)} is not of a machine`);
    }
    const parsed = requestSchema.safeParse(message);
    if (!parsed.success) return refused('malformed', 'cannot read the request');
    const { schema, public_key: publicKey, proof } = parsed.data;
    if (schema !== SCHEMA) {
      return refused(
        'malformed',
        `schema ${schema} is not known, expected ${SCHEMA}: bring machine and apiserver to one version`,
      );
    }
    const record = machines.get(name)?.record;
    if (record === undefined || record.removedAt !== undefined) {
      const why = record === undefined ? 'is not known here' : 'was removed';
      return refused(
        'forbidden',
        `machine ${name} ${why}: enrol it with a new token, see \`clustermesh vm token create\``,
      );
    }
    const reading = readClaimedKey(publicKey);
    if (reading.kind === 'unusable') return refused('malformed', reading.reason);
    const { key } = reading;
    if (!isProven(key, { input: renewProofInput({ commonName, publicKey }), proof })) {
      return refused('malformed', 'the proof does not belong to the public key and this machine');
    }
    // A key that was stolen shall be of use no longer than its certificate.
    if (key.hash === publicKeyHash) {
      return refused('malformed', 'this is the key of the present certificate, expected a new one');
    }
    const { state } = authority;
    if (state.kind === 'unusable') return refused('unavailable', state.reason);
    const notAfter = authority.notAfter();
    const outcome = await machines.renew(name, { hash: key.hash, expiresAt: notAfter }, signal);
    if (outcome.kind === 'refused') return refused('forbidden', outcome.reason);
    const { publicKey: subject } = key;
    const { certificate } = authority.issue({ commonName, publicKey: subject, notAfter });
    logger.info(
      { machine: name, key: key.hash, validTo: new Date(notAfter).toISOString() },
      'the certificate of a machine was renewed',
    );
    return { kind: 'renewed', certificate, trustBundle: authority.trustBundle };
  };

  return {
    get issuer() {
      return authority.fingerprint;
    },
    get counts() {
      return { ...counts };
    },
    async renew(message, caller) {
      let outcome: RenewalOutcome;
      try {
        outcome = await decide(message, caller);
      } catch (error) {
        if (!(error instanceof KvError)) throw error;
        outcome = refused('unavailable', `etcd does not answer (${error.code}): try again`);
      }
      if (outcome.kind === 'renewed') counts.renewed += 1;
      else {
        counts.refused += 1;
        logger.warn(
          { caller: caller.commonName, details: outcome.details },
          'a renewal was refused',
        );
      }
      return outcome;
    },
  };
}

function refused(
  code: Extract<RenewalOutcome, { kind: 'refused' }>['code'],
  details: string,
): RenewalOutcome {
  return { kind: 'refused', code, details };
}
