/**
 * Decides who becomes a machine: token, name, key and addresses are checked before a use of the token is taken, and the use
 * is taken before anything is signed. What machines are granted comes from the token alone.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { enrollProofInput } from '../../mesh/wire/key-proof.ts';
import type { IssuingAuthority } from './certificate-authority.ts';
import {
  createEnrollmentGuard,
  type EnrollmentCall,
  type RefusalCounts,
} from './enrollment-guard.ts';
import type { EnrollmentLimits } from './enrollment-limits.ts';
import {
  BAD_TOKEN,
  type EnrollmentRefusal,
  refusal,
  tokenOver,
  translated,
} from './enrollment-refusal.ts';
import { type EnrollmentRequest, readEnrollmentRequest } from './enrollment-request.ts';
import { type ClaimedKey, isProven, readClaimedKey } from './key-claim.ts';
import type { MachineBook } from './machine-book.ts';
import { isMachineName, type MachineRecord } from './machine-record.ts';
import type { TokenBook } from './token-book.ts';
import { matchesNames, type TokenRecord, tokenState } from './token-record.ts';

/** What came of it. */
export type EnrollmentOutcome =
  | {
      readonly kind: 'enrolled';
      readonly record: MachineRecord;
      /** PEM, with intermediates. */
      readonly certificate: string;
      readonly trustBundle: string;
    }
  | EnrollmentRefusal;

/** What has become of all calls so far. */
export interface EnrollmentStatus {
  /** Machines that were given a certificate for a use of a token. */
  readonly enrolled: number;
  /** Answers that were given again. */
  readonly repeated: number;
  readonly refused: RefusalCounts;
  /** Why nobody is enrolled at present; undefined: machines are. */
  readonly unusable: string | undefined;
}

/** Enrols machines. */
export interface Enrollment {
  enrol(call: EnrollmentCall): Promise<EnrollmentOutcome>;
  readonly status: EnrollmentStatus;
}

/** Options of `createEnrollment`. */
export interface EnrollmentOptions {
  readonly tokens: Pick<TokenBook, 'find' | 'take'>;
  readonly machines: Pick<MachineBook, 'get' | 'enrol' | 'judgeAddresses'>;
  readonly authority: Pick<IssuingAuthority, 'state' | 'trustBundle' | 'notAfter' | 'issue'>;
  readonly limits: EnrollmentLimits;
  /** Why this cluster takes no machines at all. Default: it takes them. */
  readonly notOffered?: string | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Makes it. */
export function createEnrollment(options: EnrollmentOptions): Enrollment {
  const { tokens, machines, authority, limits, notOffered, clock, logger } = options;
  const guard = createEnrollmentGuard({ limits, clock, logger });
  const counts = { enrolled: 0, repeated: 0 };

  const unusable = (): string | undefined => {
    if (notOffered !== undefined) return notOffered;
    const { state } = authority;
    return state.kind === 'unusable' ? state.reason : undefined;
  };
  /** The token of a request whose key is proven, and the key. */
  const identify = async (
    request: EnrollmentRequest,
    signal: AbortSignal,
  ): Promise<{ readonly token: TokenRecord; readonly key: ClaimedKey } | EnrollmentRefusal> => {
    const { tokenId, tokenSecret, machineName, publicKey, proof } = request;
    const token = await tokens.find(tokenId, tokenSecret, signal);
    if (token === undefined) return BAD_TOKEN;
    const reading = readClaimedKey(publicKey);
    if (reading.kind === 'unusable') return refusal('bad-key', reading.reason);
    const input = enrollProofInput({ tokenId, machineName, publicKey });
    if (!isProven(reading.key, { input, proof })) {
      return refusal('bad-key', 'the proof does not belong to the public key and this request');
    }
    return { token, key: reading.key };
  };
  /** What speaks against a machine, before a use of its token is taken for it. */
  const judge = (
    request: EnrollmentRequest,
    { token, key }: { readonly token: TokenRecord; readonly key: ClaimedKey },
    from: IpAddress,
  ): EnrollmentRefusal | undefined => {
    const { machineName: name, addresses } = request;
    const state = tokenState(token, clock.now());
    // One that is used up may have been used by this machine.
    if (state === 'expired' || state === 'revoked') return tokenOver(state);
    if (!isMachineName(name)) {
      return refusal(
        'bad-name',
        `a machine cannot be called ${JSON.stringify(name)}: expected 1 to 63 of a-z, 0-9 and "-"`,
      );
    }
    if (!matchesNames(token.names, name)) {
      return refusal('bad-name', `the token is for ${token.names}, and not for ${name}`);
    }
    const held = heldBy(machines.get(name)?.record, key);
    if (held !== undefined) return held;
    const { addressRanges } = token;
    const conflict = machines.judgeAddresses(name, { addresses, addressRanges });
    if (conflict !== undefined) return refusal('bad-address', conflict.reason);
    return addresses.some((address) => isSame(address, from))
      ? undefined
      : translated(from, addresses);
  };
  const grant = async (
    request: EnrollmentRequest,
    { token, key }: { readonly token: TokenRecord; readonly key: ClaimedKey },
    { from, signal }: EnrollmentCall,
  ): Promise<EnrollmentOutcome> => {
    const { machineName: name, addresses, agentVersion } = request;
    const taking = await tokens.take(token.id, { machine: name, keyHash: key.hash, from }, signal);
    if (taking.kind === 'refused') return tokenOver(taking.state);
    const { namespace, labels, addressRanges } = token;
    const notAfter = authority.notAfter();
    const outcome = await machines.enrol(
      {
        name,
        namespace,
        labels,
        addressRanges,
        addresses,
        key: { hash: key.hash, expiresAt: notAfter },
        tokenId: token.id,
        agentVersion,
      },
      signal,
    );
    if (outcome.kind === 'refused') {
      return refusal(outcome.field === 'addresses' ? 'bad-address' : 'name-taken', outcome.reason);
    }
    const { certificate } = authority.issue({
      commonName: `machine-${name}`,
      publicKey: key.publicKey,
      notAfter,
    });
    if (taking.kind === 'taken') counts.enrolled += 1;
    else counts.repeated += 1;
    const audit = { token: token.id, machine: name, from, key: key.hash, addresses };
    logger.info(
      { ...audit, usesLeft: taking.record.usesLeft, repeated: taking.kind === 'repeated' },
      'a machine was enrolled',
    );
    const { trustBundle } = authority;
    return { kind: 'enrolled', record: outcome.record, certificate, trustBundle };
  };
  const decide = async (call: EnrollmentCall): Promise<EnrollmentOutcome> => {
    const reading = readEnrollmentRequest(call.message);
    if (reading.kind === 'malformed') return refusal('malformed', reading.reason);
    const { request } = reading;
    const why = unusable();
    if (why !== undefined) {
      return refusal(notOffered === undefined ? 'unavailable' : 'not-offered', why);
    }
    const identified = await identify(request, call.signal);
    if ('kind' in identified) return identified;
    return judge(request, identified, call.from) ?? grant(request, identified, call);
  };

  return {
    get status() {
      return { ...counts, refused: guard.refused, unusable: unusable() };
    },
    enrol: (call) => guard.pass(call, () => decide(call)),
  };
}

/** What speaks against a key for the name that another machine may have. */
function heldBy(record: MachineRecord | undefined, key: ClaimedKey): EnrollmentRefusal | undefined {
  if (record === undefined) return undefined;
  const isOwn = record.keys.some(({ hash }) => hash === key.hash);
  if (record.removedAt !== undefined) {
    // Else whoever was removed would come back by the token of then.
    return isOwn || record.revokedKeys.some(({ hash }) => hash === key.hash)
      ? refusal(
          'bad-key',
          `this key was of machine ${record.name}, which has been removed: run \`clustermesh vm leave\` on it, so that it makes a new key when it joins`,
        )
      : undefined;
  }
  if (isOwn) return undefined;
  return refusal(
    'name-taken',
    `a machine ${record.name} has enrolled already, with another key: choose another name, or if it is gone for good or was installed anew, first run \`clustermesh vm remove ${record.name}\``,
  );
}

function isSame(claimed: string, from: IpAddress): boolean {
  try {
    return parseIpAddress(claimed) === from;
  } catch {
    return false;
  }
}
