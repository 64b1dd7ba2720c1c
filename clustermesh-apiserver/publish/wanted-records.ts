/** Everything that is wanted in etcd, kept for whoever leads, and handed to whoever leads now. */
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { AnnotationWarning } from '../convert/annotation-warning.ts';
import {
  type ConversionMode,
  PUBLISHED_SETS,
  type PublishedSet,
} from '../convert/published-sets.ts';
import type { EndpointRecord, RecordChange } from '../convert/records.ts';
import { createAnnotationWarnings } from './annotation-warnings.ts';
import { createLatch } from './latch.ts';
import { describeRecord, keysOf, prefixOfSet } from './record-keys.ts';
import type { Term, Wanted } from './term.ts';

/** What is wanted, as it changes. */
export interface WantedRecords extends Wanted {
  /** Takes a change. One that cannot be published is reported, and what stood there stays. */
  take(change: RecordChange): void;
  /** Takes many, and lets others have their turn meanwhile. */
  takeAll(changes: Iterable<RecordChange>): Promise<void>;
  /** Hands every further change to a term that has what was wanted before; undefined when there is none. */
  handTo(term: Term | undefined): void;
  /** Opens the latches of the sets that `isWhole` says are told. */
  open(isWhole: (set: PublishedSet) => boolean): void;
  /** Whether all sets are. */
  readonly isComplete: boolean;
  /** Addresses, and identities that have their numbers from elsewhere. */
  readonly counts: { readonly endpoints: number; readonly identities: number };
  /** Everything that is wrong with objects' annotations now. */
  readonly annotationWarnings: readonly AnnotationWarning[];
}

/** Options of `createWantedRecords`. */
export interface WantedRecordsOptions {
  readonly cluster: ClusterName;
  readonly mode: ConversionMode;
  readonly onAnnotationWarning: ((warning: AnnotationWarning) => void) | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** How long records are made without letting others have their turn: locks and leases have to be kept. */
const LONGEST_TURN_MS = 20;

/** Makes an empty book of what is wanted. */
export function createWantedRecords(options: WantedRecordsOptions): WantedRecords {
  const { cluster, mode, clock, logger } = options;
  let term: Term | undefined;
  const warnings = createAnnotationWarnings({
    logger,
    // Of several replicas one tells whoever wrote them.
    onWarning: (warning) => {
      if (term !== undefined) options.onAnnotationWarning?.(warning);
    },
  });
  const values = new Map<string, string>();
  const records = new Map<IpAddress, EndpointRecord>();
  const complete: Wanted['complete'] = {
    nodes: createLatch(),
    ips: createLatch(),
    identities: createLatch(),
    services: createLatch(),
    serviceexports: createLatch(),
    'local-ips': createLatch(),
    'local-identities': createLatch(),
    'local-services': createLatch(),
    'local-policies': createLatch(),
  };
  /** Keys under the prefixes of which the numbers are asked. */
  const numbered = { ips: 0, identities: 0 };
  const prefixes = {
    ips: prefixOfSet('ips', cluster, mode),
    identities: prefixOfSet('identities', cluster, mode),
  };

  const count = (key: string, difference: number): void => {
    for (const set of ['ips', 'identities'] as const) {
      const prefix = prefixes[set];
      if (prefix !== undefined && key.startsWith(prefix)) numbered[set] += difference;
    }
  };
  const set = (key: string, value: string | undefined): void => {
    const stood = values.has(key);
    if (value === undefined) {
      if (stood) count(key, -1);
      values.delete(key);
      term?.sync.delete(key);
    } else {
      if (!stood) count(key, 1);
      values.set(key, value);
      term?.sync.upsert(key, value);
    }
  };
  const publish = (change: RecordChange): void => {
    if (change.kind === 'warnings') {
      warnings.take(change.object, change.value);
      return;
    }
    if (change.kind !== 'endpoint') {
      for (const [key, value] of keysOf(change, cluster)) set(key, value);
      return;
    }
    const { address, value } = change;
    if (value === undefined) {
      records.delete(address);
      term?.endpoints?.delete(address);
    } else {
      records.set(address, value);
      term?.endpoints?.upsert(value);
    }
  };
  const take = (change: RecordChange): void => {
    try {
      publish(change);
    } catch (error) {
      const record = describeRecord(change);
      logger.error({ err: error, record }, 'cannot publish a record, it is left out');
    }
  };

  return {
    values,
    records,
    complete,
    take,
    async takeAll(changes) {
      let began = clock.monotonic();
      for (const change of changes) {
        take(change);
        if (clock.monotonic() - began < LONGEST_TURN_MS) continue;
        await setImmediate();
        began = clock.monotonic();
      }
    },
    handTo(now) {
      term = now;
      if (now === undefined) return;
      for (const warning of warnings.standing) options.onAnnotationWarning?.(warning);
    },
    open(isWhole) {
      for (const one of PUBLISHED_SETS) if (isWhole(one)) complete[one].open();
    },
    get isComplete() {
      return PUBLISHED_SETS.every((one) => complete[one].isOpen);
    },
    get counts() {
      return { endpoints: records.size + numbered.ips, identities: numbered.identities };
    },
    get annotationWarnings() {
      return warnings.standing;
    },
  };
}
