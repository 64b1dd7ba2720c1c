/**
 * The machines of the cluster: what they were granted when they enrolled, what they claim now, and which of them are there by
 * their own word. All of it is kept in etcd; replicas share it, and each knows the whole of it.
 */
import { KvError, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import type { HealthCheck } from '../convert/health-check.ts';
import type { Machine, MachineEndpoint } from '../convert/machine.ts';
import type { MachineTrust } from '../gate/machine-trust.ts';
import {
  findEndpointConflict,
  parseMachineEndpoint,
  withEndpoint,
  withoutEndpoint,
} from './machine-endpoints.ts';
import { enrolMachine, type MachineEnrolment, type MachineRefusal } from './machine-enrolment.ts';
import { distrustOf, withKey } from './machine-keys.ts';
import { checkRanges, parseMachineAddresses, refusalOf } from './machine-messages.ts';
import {
  type CheckStanding,
  isMachineName,
  type MachineKey,
  type MachineRecord,
  machineNameOf,
  publishedMachine,
} from './machine-record.ts';
import { createMachineRecords, type MachineChange } from './machine-records.ts';
import { createMachineSeats, type Seat } from './machine-seats.ts';
import { type MachineReplicas, machineUpkeep } from './machine-upkeep.ts';
import {
  createMachineVisits,
  type MachineGreeting,
  type MachineOpening,
} from './machine-visits.ts';
import { removedReason, replacedReason, unknownReason } from './machine-words.ts';

/** What came of it. */
export type MachineOutcome =
  | { readonly kind: 'taken'; readonly record: MachineRecord }
  | ({ readonly kind: 'refused' } & MachineRefusal);

/** A machine, as people are shown it. Nothing of it is secret. */
export interface MachineReport {
  readonly record: MachineRecord;
  /** `enrolled`: it has had no session so far; `elsewhere`: its session is at another replica. */
  readonly state: 'enrolled' | 'connected' | 'elsewhere' | 'gone' | 'removed';
  /** Milliseconds that it has been in that state. */
  readonly forMs: number;
  /** What a person should know: a clone, facts that were rejected. Empty: nothing. */
  readonly problems: readonly string[];
  readonly failingChecks: ReadonlyMap<string, CheckStanding>;
}

/** The machines of the cluster. Whatever writes rejects with KvError while etcd does not answer. */
export interface MachineBook {
  /** Reads what is kept and publishes it; to be awaited before leftovers are swept. */
  load(signal: AbortSignal): Promise<void>;
  /**
   * Writes a machine down before it is given a certificate. The same machine with the same key may enrol again; a name that
   * another key has is refused until that machine is removed.
   */
  enrol(enrolment: MachineEnrolment, signal: AbortSignal): Promise<MachineOutcome>;
  /** Writes a further key of a machine down before it is given a certificate for it. */
  renew(name: string, key: MachineKey, signal: AbortSignal): Promise<MachineOutcome>;
  /** Changes labels: gives those of `set`, takes away those of `remove`. */
  label(
    name: string,
    change: { readonly set: Readonly<Record<string, string>>; readonly remove: readonly string[] },
    signal: AbortSignal,
  ): Promise<MachineOutcome>;
  /** Puts an endpoint behind a machine, a MachineEndpoint as it came; one of its name is replaced. */
  setEndpoint(name: string, message: unknown, signal: AbortSignal): Promise<MachineOutcome>;
  removeEndpoint(name: string, endpoint: string, signal: AbortSignal): Promise<MachineOutcome>;
  /** Takes a machine away: its session is cut, its addresses go, its certificates are believed no more. */
  remove(name: string, signal: AbortSignal): Promise<MachineOutcome>;
  /** Begins a session. An earlier one that this replaces is told by its `onReplaced`, with the reason in words. */
  open(
    name: string,
    greeting: MachineGreeting,
    onReplaced: (reason: string) => void,
  ): MachineOpening;
  /** What is wrong with addresses that a machine claims; undefined: nothing. For a look before a token is used. */
  judgeAddresses(
    name: string,
    claim: {
      readonly addresses: readonly string[];
      readonly addressRanges: readonly IpPrefix[];
    },
  ): MachineRefusal | undefined;
  get(name: string): MachineReport | undefined;
  readonly report: readonly MachineReport[];
  /** Whether the certificate of a machine still counts; gate and registry ask for each connection. */
  readonly trust: MachineTrust;
  /** Called with a machine's name after each change of what is known of it, and when its session begins or ends. */
  onChange(callback: (name: string) => void): void;
  /** Follows etcd, takes away the addresses of machines whose grace time is over, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Options of `createMachineBook`. */
export interface MachineBookOptions {
  readonly store: KvStore;
  /** Publishes a machine, or withdraws it. */
  readonly publish: (name: string, machine: Machine | undefined) => void;
  /** Who else holds what a machine claims: pods, nodes. Machines are judged here. */
  readonly findConflict: (
    name: string,
    addresses: readonly IpAddress[],
  ) => MachineRefusal | undefined;
  /** Addresses of the apiserver itself, which no machine can have. */
  readonly ownAddresses: () => readonly IpAddress[];
  /** What is to be checked on a machine; what it says of other checks counts for nothing. */
  readonly checksOf: (machine: Machine) => readonly HealthCheck[];
  /** How long a machine's addresses stay after its session has ended. */
  readonly graceMs: number;
  /** What is shared with other registries on the same etcd. Default: there are none. */
  readonly replicas?: MachineReplicas;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Makes an empty book. */
export function createMachineBook(options: MachineBookOptions): MachineBook {
  const { store, publish, findConflict, ownAddresses, checksOf, graceMs, replicas } = options;
  const { clock, logger } = options;
  const seats = createMachineSeats({ clock });
  const callbacks = new Set<(name: string) => void>();
  const trustCallbacks = new Set<() => void>();
  const tell = (name: string): void => {
    for (const callback of callbacks) callback(name);
  };
  /** What gate and registry were told last, by name. */
  const distrusted = new Map<string, string>();

  const records = createMachineRecords({
    store,
    logger,
    onChange(name, record) {
      publish(name, record === undefined ? undefined : publishedMachine(record));
      if (record === undefined || record.removedAt !== undefined) leave(name, record);
      const text = distrustOf(record);
      const isNews = distrusted.get(name) !== text;
      if (record === undefined) distrusted.delete(name);
      else distrusted.set(name, text);
      tell(name);
      if (isNews) for (const callback of trustCallbacks) callback();
    },
  });
  const upkeep = machineUpkeep({ records, seats, replicas, graceMs, clock, logger });
  /** Ends the session of a machine that is not one any more. */
  const leave = (name: string, record: MachineRecord | undefined): void => {
    visits.forget(name);
    const seat = seats.of(name);
    if (seat?.kind === 'connected') {
      replicas?.board.withdraw(name);
      seat.onReplaced(record === undefined ? unknownReason(name) : removedReason(name));
    }
    if (record === undefined) seats.clear(name);
    else seats.put(name, { kind: 'gone', since: clock.monotonic() });
  };
  const judge = (
    name: string,
    claim: { readonly addresses: readonly IpAddress[]; readonly ranges: readonly IpPrefix[] },
  ): MachineRefusal | undefined => {
    const { addresses, ranges } = claim;
    const own = ownAddresses();
    const ours = addresses.find((address) => own.includes(address));
    if (ours !== undefined) {
      return { field: 'addresses', reason: `${ours} is an address of the cluster's own apiserver` };
    }
    try {
      checkRanges(addresses, ranges);
    } catch (error) {
      return refusalOf(error);
    }
    return findConflict(name, addresses);
  };
  const judgeAddresses: MachineBook['judgeAddresses'] = (name, { addresses, addressRanges }) => {
    try {
      return judge(name, { addresses: parseMachineAddresses(addresses), ranges: addressRanges });
    } catch (error) {
      return refusalOf(error);
    }
  };
  const write = async (
    name: string,
    change: MachineChange<MachineRefusal>,
    signal: AbortSignal,
  ): Promise<MachineOutcome> => {
    const outcome = await records.change(name, change, { signal });
    switch (outcome.kind) {
      case 'written':
        return { kind: 'taken', record: outcome.record };
      case 'refused':
        return { kind: 'refused', ...outcome.refusal };
      case 'fenced': {
        const message = `what is kept of machine ${name} cannot be read: remove it from etcd, or restore a backup`;
        throw new KvError('invalid', message, { retryable: false });
      }
      default:
        throw outcome satisfies never;
    }
  };
  /** Changes a machine that is there. */
  const amend = (
    name: string,
    change: (record: MachineRecord) => MachineRecord | MachineRefusal,
    signal: AbortSignal,
  ): Promise<MachineOutcome> =>
    write(
      name,
      (record) => {
        if (record === undefined)
          return { refusal: { field: 'name', reason: unknownReason(name) } };
        if (record.removedAt !== undefined) {
          return { refusal: { field: 'name', reason: removedReason(name) } };
        }
        const next = change(record);
        return 'reason' in next ? { refusal: next } : { record: next };
      },
      signal,
    );

  const enrol: MachineBook['enrol'] = async (enrolment, signal) => {
    const { name, key, addresses, addressRanges } = enrolment;
    if (!isMachineName(name)) {
      const reason = `${JSON.stringify(name)} is no name of a machine, expected 1 to 63 of a-z, 0-9 and "-"`;
      return { kind: 'refused', field: 'machine_name', reason };
    }
    const refusal = judgeAddresses(name, { addresses, addressRanges });
    if (refusal !== undefined) return { kind: 'refused', ...refusal };
    const outcome = await write(
      name,
      (before) => enrolMachine(before, enrolment, clock.now()),
      signal,
    );
    if (outcome.kind === 'taken') {
      logger.info({ machine: name, token: enrolment.tokenId, key: key.hash }, 'a machine enrolled');
    }
    return outcome;
  };

  const visits = createMachineVisits({
    records,
    seats,
    amend,
    judge,
    checksOf,
    replicas,
    tell,
    graceMs,
    clock,
    logger,
  });

  /** Whoever has a session here loses it to another registry. */
  const moveElsewhere = (name: string): void => {
    const before = seats.of(name);
    seats.put(name, { kind: 'elsewhere', since: clock.monotonic() });
    if (before?.kind === 'connected') before.onReplaced(replacedReason(name));
    tell(name);
  };
  const handlers = {
    onElsewhere: moveElsewhere,
    onLeft(name: string) {
      if (seats.of(name)?.kind !== 'elsewhere') return;
      seats.put(name, { kind: 'gone', since: clock.monotonic() });
      tell(name);
    },
    onFacts: records.take,
    onFactsLost: records.lose,
    onOtherEtcd: records.restart,
    // Who left while etcd was out of reach could not come back either.
    onSynced: () => seats.restartAbsences(),
  };
  const describe = (record: MachineRecord): MachineReport => {
    const { name } = record;
    const seat = seats.of(name);
    const rejection = visits.rejectionOf(name);
    const clone = seats.describeClone(name);
    return {
      record,
      state: stateOf(record, seat),
      forMs: Math.round(seat === undefined ? 0 : clock.monotonic() - seat.since),
      problems: [
        ...(clone === undefined ? [] : [clone]),
        ...(rejection === undefined ? [] : [`rejected: ${rejection.field}: ${rejection.reason}`]),
      ],
      failingChecks: new Map([...record.checks].filter(([, { healthy }]) => !healthy)),
    };
  };

  return {
    async load(signal) {
      await records.load(signal);
      for (const { name, bootId } of records.all) {
        if (bootId !== '') seats.put(name, { kind: 'gone', since: clock.monotonic() });
      }
    },
    enrol,
    renew: (name, key, signal) =>
      amend(
        name,
        (record) => {
          const keys = withKey(record.keys, key, clock.now());
          if (keys === undefined) {
            const reason = `machine ${name} has ${record.keys.length} certificates that are valid: it may have another one when some have run out`;
            return { field: 'public_key', reason };
          }
          return { ...record, keys, publicKeyHash: key.hash };
        },
        signal,
      ),
    label: (name, { set, remove }, signal) =>
      amend(
        name,
        (record) => {
          const rest = Object.entries(record.labels).filter(([key]) => !remove.includes(key));
          return { ...record, labels: { ...Object.fromEntries(rest), ...set } };
        },
        signal,
      ),
    async setEndpoint(name, message, signal) {
      let endpoint: MachineEndpoint;
      try {
        endpoint = parseMachineEndpoint(message);
      } catch (error) {
        return { kind: 'refused', ...refusalOf(error) };
      }
      const { addresses } = endpoint;
      const path = `${name}/${endpoint.name}`;
      const refusal =
        findEndpointConflict(records.all, { path, addresses }) ??
        judge(path, { addresses, ranges: [] });
      if (refusal !== undefined) return { kind: 'refused', ...refusal };
      return amend(name, (record) => withEndpoint(record, endpoint), signal);
    },
    removeEndpoint: (name, endpoint, signal) =>
      amend(name, (record) => withoutEndpoint(record, endpoint), signal),
    remove: (name, signal) =>
      write(
        name,
        (record) => {
          if (record === undefined) {
            return { refusal: { field: 'name', reason: unknownReason(name) } };
          }
          const removedAt = record.removedAt ?? clock.now();
          const gone = { addresses: [], checks: new Map(), endpoints: [], removedAt };
          return { record: { ...record, ...gone } };
        },
        signal,
      ),
    open: visits.open,
    judgeAddresses,
    get(name) {
      const record = records.get(name);
      return record === undefined ? undefined : describe(record);
    },
    get report() {
      return [...records.all].map(describe);
    },
    trust: {
      judge(commonName, publicKeyHash) {
        const record = records.get(machineNameOf(commonName) ?? '');
        if (record === undefined) return 'unknown-machine';
        if (record.removedAt !== undefined) return 'revoked';
        if (record.revokedKeys.length === 0) return undefined;
        const hash = publicKeyHash();
        return record.revokedKeys.some((key) => key.hash === hash) ? 'revoked' : undefined;
      },
      onChange: (callback) => trustCallbacks.add(callback),
    },
    onChange: (callback) => callbacks.add(callback),
    async run(signal) {
      seats.restartAbsences();
      await Promise.all([upkeep(signal), replicas?.board.run(handlers, signal)]);
    },
  };
}

function stateOf(record: MachineRecord, seat: Seat | undefined): MachineReport['state'] {
  if (record.removedAt !== undefined) return 'removed';
  // What is known of whoever had the name before says nothing of this one.
  return seat === undefined || (seat.kind === 'gone' && record.bootId === '')
    ? 'enrolled'
    : seat.kind;
}
