/** Whether a machine may have a name, and what is written down of it then. Pure. */
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import { liveKeys, withKey } from './machine-keys.ts';
import type { MachineKey, MachineRecord } from './machine-record.ts';

/** Why something is refused: the field at fault and what is wrong with it, for people. */
export interface MachineRefusal {
  readonly field: string;
  readonly reason: string;
}

/** What a machine is granted when it enrols. */
export interface MachineEnrolment {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Networks that its addresses have to be in; none: no network is ruled out. */
  readonly addressRanges: readonly IpPrefix[];
  /** What it claims, as it came: parsed and judged here. */
  readonly addresses: readonly string[];
  /** The key that a certificate will be given for. */
  readonly key: MachineKey;
  readonly tokenId: string;
  readonly agentVersion: string;
}

/** The record of who enrols, or why there is none. `now` is milliseconds since 1970. */
export function enrolMachine(
  before: MachineRecord | undefined,
  enrolment: MachineEnrolment,
  now: number,
): { readonly record: MachineRecord } | { readonly refusal: MachineRefusal } {
  const { name, namespace, labels, addressRanges, key, tokenId, agentVersion } = enrolment;
  const isAgain = before !== undefined && before.removedAt === undefined;
  if (isAgain && !before.keys.some(({ hash }) => hash === key.hash)) {
    const reason = `machine ${name} is enrolled already, with another key: remove it first (clustermesh vm remove ${name}), or choose another name`;
    return { refusal: { field: 'machine_name', reason } };
  }
  const revokedKeys = before === undefined ? [] : liveKeys(before.revokedKeys, now);
  const keys = isAgain ? withKey(before.keys, key, now) : [key];
  if (keys === undefined) {
    const reason = `machine ${name} has too many certificates that are valid, try again when some have run out`;
    return { refusal: { field: 'public_key', reason } };
  }
  if (isAgain) return { record: { ...before, keys } };
  const formerKeys = before === undefined ? [] : liveKeys(before.keys, now);
  return {
    record: {
      name,
      namespace,
      labels,
      addressRanges,
      publicKeyHash: key.hash,
      keys,
      // Who had this name before must not pass for the one who has it now.
      revokedKeys: [...revokedKeys, ...formerKeys].filter(({ hash }) => hash !== key.hash),
      tokenId,
      enrolledAt: now,
      addresses: [],
      bootId: '',
      agentVersion,
      checks: new Map(),
      removedAt: undefined,
    },
  };
}
