/** Addresses with the number of their labels: an identity is in etcd before the first address that carries it. */
import { KvError, type KvLease } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { encodeLabels } from '../../mesh/wire/identity.ts';
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { encodeIpIdentity } from '../../mesh/wire/ip-identity.ts';
import { ipKey } from '../../mesh/wire/keys.ts';
import type { EndpointRecord } from '../convert/cluster-model.ts';
import { type IdentityAllocator, IdentityError } from './identities.ts';
import type { SyncStore } from './sync-store.ts';
import { untilAnswered } from './until-answered.ts';

/** Options of `createEndpointPublisher`. */
export interface EndpointPublisherOptions {
  readonly identities: IdentityAllocator;
  readonly sync: Pick<SyncStore, 'upsert' | 'delete'>;
  readonly lease: KvLease;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How long a number is kept after its last address has gone, in milliseconds. */
  readonly identityGraceMs: number;
}

/** Publishes a cluster's addresses. */
export interface EndpointPublisher {
  /**
   * Publishes an address. While there is no number left for its labels it is not published, and tried again. Throws
   * WireError for labels that have no wire form; the address is not published then.
   */
  upsert(record: EndpointRecord, signal: AbortSignal): Promise<void>;
  delete(address: IpAddress): void;
  /** Looks after identities until `signal` aborts: restores lost ones, deletes unused ones once `isComplete`. */
  maintain(isComplete: () => boolean, signal: AbortSignal): Promise<void>;
  /** Addresses that shall be published, and how many of them have no number. */
  readonly counts: { readonly endpoints: number; readonly withoutIdentity: number };
}

/** Makes the publisher of a cluster's addresses. */
export function createEndpointPublisher(options: EndpointPublisherOptions): EndpointPublisher {
  const { identities, sync, lease, clock, logger, identityGraceMs } = options;
  const records = new Map<IpAddress, EndpointRecord>();
  const texts = new WeakMap<EndpointRecord, string>();
  const withoutIdentity = new Set<IpAddress>();
  const unusedSince = new Map<string, number>();
  let wake = new AbortController();
  lease.onLost(() => wake.abort());

  const publish = async (record: EndpointRecord, signal: AbortSignal): Promise<void> => {
    const { address } = record;
    let identity: NumericIdentity;
    try {
      identity = await untilAnswered(() => identities.allocate(record.labels, signal), {
        clock,
        logger,
        signal,
      });
    } catch (error) {
      signal.throwIfAborted();
      // Under the number of its former labels it would pass policies that it should not.
      if (records.get(address) === record) sync.delete(ipKey(address));
      if (!(error instanceof IdentityError)) throw error;
      if (withoutIdentity.size === 0) logger.error({ err: error }, 'pods are left out');
      withoutIdentity.add(address);
      return;
    }
    // Meanwhile it may have gone or changed.
    if (records.get(address) !== record) return;
    withoutIdentity.delete(address);
    sync.upsert(ipKey(address), encodeRecord(record, identity));
  };
  /** Label string of a record: asked for again and again, of every address. */
  const textOf = (record: EndpointRecord): string => {
    const known = texts.get(record);
    if (known !== undefined) return known;
    const text = encodeLabels(record.labels);
    texts.set(record, text);
    return text;
  };
  const collect = async (signal: AbortSignal): Promise<void> => {
    const now = clock.monotonic();
    const kept = new Set([...records.values()].map(textOf));
    for (const text of [...unusedSince.keys()]) if (kept.has(text)) unusedSince.delete(text);
    for (const text of identities.known.keys()) {
      if (kept.has(text)) continue;
      const since = unusedSince.get(text) ?? now;
      unusedSince.set(text, since);
      if (now - since < identityGraceMs) kept.add(text);
      else unusedSince.delete(text);
    }
    const collected = await identities.collectGarbage(kept, signal);
    if (collected > 0) logger.info({ collected }, 'unused identities were deleted');
  };
  const restore = async (signal: AbortSignal): Promise<void> => {
    const lost = new Set(await identities.restore(signal));
    const again = [...records.values()].filter(
      (record) => withoutIdentity.has(record.address) || lost.has(textOf(record)),
    );
    for (const record of again) await publish(record, signal);
  };

  return {
    async upsert(record, signal) {
      records.set(record.address, record);
      try {
        await publish(record, signal);
      } catch (error) {
        if (!signal.aborted && records.get(record.address) === record)
          records.delete(record.address);
        throw error;
      }
    },
    delete(address) {
      records.delete(address);
      withoutIdentity.delete(address);
      sync.delete(ipKey(address));
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
      return { endpoints: records.size, withoutIdentity: withoutIdentity.size };
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
