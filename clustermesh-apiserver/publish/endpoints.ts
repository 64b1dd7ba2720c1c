/**
 * Addresses with the number of their labels: an identity is in etcd before the first address that carries it. Those of
 * namespaces that are not global stand where only the own agents may read, and change places when that changes.
 */
import { type KvCompare, KvError, type KvLease } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { encodeLabels, type Labels } from '../../mesh/wire/identity.ts';
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { encodeIpIdentity } from '../../mesh/wire/ip-identity.ts';
import { ipKey, localIpKey } from '../../mesh/wire/keys.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import type { EndpointRecord } from '../convert/records.ts';
import { createFarewells } from './farewells.ts';
import { type IdentityAllocator, IdentityError } from './identities.ts';
import type { SyncStore } from './sync-store.ts';
import { untilAnswered } from './until-answered.ts';

/** Sets of labels whose numbers are asked for at the same time. */
const CONCURRENT_ALLOCATIONS = 240;
/** Sets of labels without a number that the status names. */
const MAX_NAMED = 10;

/** Options of `createEndpointPublisher`. */
export interface EndpointPublisherOptions {
  readonly identities: IdentityAllocator;
  readonly sync: Pick<SyncStore, 'upsert' | 'delete'>;
  readonly lease: KvLease;
  /** Condition of what deletes identities: that this process still leads. */
  readonly fence: KvCompare;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How long a number is kept after its last address has gone, in milliseconds. */
  readonly identityGraceMs: number;
}

/** What is published, in numbers. */
export interface EndpointCounts {
  readonly endpoints: number;
  /** Pods that are left out because there is no number left for their labels. */
  readonly withoutIdentity: number;
  /** Some of those labels. */
  readonly labelsWithoutIdentity: readonly string[];
}

/** Publishes a cluster's addresses. */
export interface EndpointPublisher {
  /**
   * Wants an address published. While there is no number left for its labels it is not, and tried again; with labels that
   * have no wire form it is not, which is logged.
   */
  upsert(record: EndpointRecord): void;
  /** Wants an address gone; it goes a little later, see `createFarewells`. */
  delete(address: IpAddress): void;
  /** Resolves when every address wanted has been handed on, or is known to be left out. */
  settled(signal: AbortSignal): Promise<void>;
  /** Publishes until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
  /** Looks after identities until `signal` aborts: restores lost ones, deletes unused ones once `isComplete`. */
  maintain(isComplete: () => boolean, signal: AbortSignal): Promise<void>;
  readonly counts: EndpointCounts;
}

/** Makes the publisher of a cluster's addresses. */
export function createEndpointPublisher(options: EndpointPublisherOptions): EndpointPublisher {
  const { identities, sync, lease, clock, logger, identityGraceMs } = options;
  const records = new Map<IpAddress, EndpointRecord>();
  /** By sets of labels, which many records share. */
  const texts = new WeakMap<Labels, string>();
  /** Addresses to be handed on. */
  const dirty = new Set<IpAddress>();
  /** Addresses that are left out and shall be tried again, with their labels where there is no number for them. */
  const leftOut = new Map<IpAddress, string | undefined>();
  const unusedSince = new Map<string, number>();
  /** Since when labels are those of addresses for the own agents alone. */
  const hiddenSince = new Map<string, number>();
  const waiters = new Set<() => void>();
  let isBusy = false;
  let ring: () => void = () => undefined;
  let wake = new AbortController();
  lease.onLost(() => wake.abort());

  /** Label string of a record: asked for again and again, of every address. */
  const textOf = (record: EndpointRecord): string => {
    const known = texts.get(record.labels);
    if (known !== undefined) return known;
    const text = encodeLabels(record.labels);
    texts.set(record.labels, text);
    return text;
  };
  /** Label strings in use, and those that peers may know. Of labels without a wire form there is none: they are about to be left out. */
  const textsInUse = (): { inUse: Set<string>; shown: Set<string> } => {
    const inUse = new Set<string>();
    const shown = new Set<string>();
    for (const record of records.values()) {
      try {
        inUse.add(textOf(record));
        if (!record.isLocal) shown.add(textOf(record));
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
      }
    }
    return { inUse, shown };
  };
  const withdraw = (address: IpAddress): void => {
    sync.delete(ipKey(address));
    sync.delete(localIpKey(address));
  };
  const farewells = createFarewells({ withdraw, clock });
  const touch = (address: IpAddress): void => {
    dirty.add(address);
    ring();
  };
  const leaveOut = (record: EndpointRecord, error: unknown): void => {
    const { address } = record;
    if (records.get(address) !== record) return;
    // Under the number of its former labels it would pass policies that it should not.
    withdraw(address);
    if (error instanceof IdentityError) {
      const isFirst = [...leftOut.values()].every((text) => text === undefined);
      if (isFirst) logger.error({ err: error }, 'pods are left out');
      leftOut.set(address, textOf(record));
      return;
    }
    const described = `address ${address} of pod ${record.namespace}/${record.podName}`;
    logger.error({ err: error, record: described }, 'cannot publish a record, it is left out');
    if (error instanceof KvError) leftOut.set(address, undefined);
    else records.delete(address);
  };
  const handOn = (record: EndpointRecord, identity: NumericIdentity): void => {
    const { address } = record;
    // Meanwhile it may have gone or changed.
    if (records.get(address) !== record) return;
    leftOut.delete(address);
    const { isLocal } = record;
    sync.upsert((isLocal ? localIpKey : ipKey)(address), encodeRecord(record, identity));
    // Not before it stands where it belongs: own agents read both places.
    sync.delete((isLocal ? ipKey : localIpKey)(address));
  };
  const publishGroup = async (
    group: readonly [EndpointRecord, ...EndpointRecord[]],
    signal: AbortSignal,
  ): Promise<void> => {
    try {
      const { labels, isLocal } = group[0];
      const attempt = (): Promise<NumericIdentity> =>
        identities.allocate(labels, { isLocal, signal });
      const identity = await untilAnswered(attempt, { clock, logger, signal });
      for (const record of group) handOn(record, identity);
    } catch (error) {
      signal.throwIfAborted();
      for (const record of group) leaveOut(record, error);
    }
  };
  /** Takes what is to be done, by labels and by who may know them. */
  const takeGroups = (): [EndpointRecord, ...EndpointRecord[]][] => {
    const groups = new Map<string, [EndpointRecord, ...EndpointRecord[]]>();
    for (const address of dirty) {
      const record = records.get(address);
      if (record === undefined) continue;
      try {
        const name = `${record.isLocal ? '-' : '+'}${textOf(record)}`;
        const group = groups.get(name);
        if (group === undefined) groups.set(name, [record]);
        else group.push(record);
      } catch (error) {
        leaveOut(record, error);
      }
    }
    dirty.clear();
    return [...groups.values()];
  };
  const settle = (): void => {
    for (const done of waiters) done();
    waiters.clear();
  };

  const collect = async (signal: AbortSignal): Promise<void> => {
    const now = clock.monotonic();
    const { inUse: kept, shown } = textsInUse();
    for (const text of [...unusedSince.keys()]) if (kept.has(text)) unusedSince.delete(text);
    for (const text of identities.known.keys()) {
      if (kept.has(text)) continue;
      const since = unusedSince.get(text) ?? now;
      unusedSince.set(text, since);
      if (now - since < identityGraceMs) kept.add(text);
      else unusedSince.delete(text);
    }
    const hidden = new Set<string>();
    for (const text of kept) {
      // What nobody uses any more stays where it is until it goes.
      if (shown.has(text) || unusedSince.has(text)) {
        hiddenSince.delete(text);
        continue;
      }
      const since = hiddenSince.get(text) ?? now;
      hiddenSince.set(text, since);
      if (now - since >= identityGraceMs) hidden.add(text);
    }
    for (const text of [...hiddenSince.keys()]) if (!kept.has(text)) hiddenSince.delete(text);
    const { fence } = options;
    const collected = await identities.collectGarbage(kept, { fence, hidden, signal });
    if (collected > 0) logger.info({ collected }, 'unused identities were deleted');
  };
  const restore = async (signal: AbortSignal): Promise<void> => {
    const lost = new Set(await identities.restore(signal));
    for (const record of records.values()) {
      // What is to be done anyway asks for its number anyway.
      if (dirty.has(record.address)) continue;
      const text = textOf(record);
      if (lost.has(text) || (!record.isLocal && !identities.isShown(text))) touch(record.address);
    }
    for (const address of leftOut.keys()) touch(address);
  };

  return {
    upsert(record) {
      records.set(record.address, record);
      farewells.cancel(record.address);
      touch(record.address);
    },
    delete(address) {
      records.delete(address);
      leftOut.delete(address);
      farewells.begin(address);
    },
    async settled(signal) {
      if (dirty.size === 0 && !isBusy) return;
      await new Promise<void>((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason);
        const onAbort = (): void => {
          waiters.delete(done);
          reject(signal.reason);
        };
        const done = (): void => {
          signal.removeEventListener('abort', onAbort);
          resolve();
        };
        waiters.add(done);
        signal.addEventListener('abort', onAbort, { once: true });
      });
    },
    async run(signal) {
      const onAbort = (): void => ring();
      signal.addEventListener('abort', onAbort, { once: true });
      const ending = new AbortController();
      const leaving = farewells.run(AbortSignal.any([signal, ending.signal]));
      try {
        while (!signal.aborted) {
          if (dirty.size === 0) {
            settle();
            await new Promise<void>((resolve) => {
              ring = resolve;
            });
            continue;
          }
          isBusy = true;
          const groups = takeGroups();
          const worker = async (): Promise<void> => {
            for (let group = groups.pop(); group !== undefined; group = groups.pop()) {
              await publishGroup(group, signal);
            }
          };
          const length = Math.min(CONCURRENT_ALLOCATIONS, groups.length);
          const workers = Array.from({ length }, worker);
          await Promise.all(workers);
          isBusy = false;
        }
      } finally {
        signal.removeEventListener('abort', onAbort);
        ending.abort();
        await leaving;
      }
    },
    async maintain(isComplete, signal) {
      while (!signal.aborted) {
        await clock
          .sleep(identityGraceMs / 3, AbortSignal.any([signal, wake.signal]))
          .catch(() => undefined);
        if (signal.aborted) return;
        wake = new AbortController();
        try {
          if (isComplete()) await collect(signal);
          await restore(signal);
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof KvError)) throw error;
          logger.warn({ err: error }, 'cannot look after identities, will be retried');
          await clock.sleep(Math.min(5_000, identityGraceMs / 3), signal).catch(() => undefined);
          wake.abort();
        }
      }
    },
    get counts() {
      const texts = [...leftOut.values()].filter((text) => text !== undefined);
      return {
        endpoints: records.size,
        withoutIdentity: texts.length,
        labelsWithoutIdentity: [...new Set(texts)].slice(0, MAX_NAMED),
      };
    },
  };
}

function encodeRecord(record: EndpointRecord, identity: NumericIdentity): string {
  return encodeIpIdentity({
    prefix: parseIpPrefix(record.address),
    isCidr: false,
    hostIp: record.hostIp,
    identity,
    encryptionKey: 0,
    metadata: '',
    namespace: record.namespace,
    podName: record.podName,
    serviceAccount: record.serviceAccount,
    namedPorts: record.namedPorts,
  });
}
