/**
 * Digests of what this publisher has in etcd, written in the transactions that change it: readers compare what they hold.
 * Of nodes, addresses (those for the own agents alone, too) and services; identities are allocated by compare-and-swap of several replicas, so no one writer
 * knows them all, and readers compare their keys alone.
 */
import type { KvLease, KvOp } from '../../mesh/kvstore/kvstore.ts';
import { createLedger, type Ledger } from '../../mesh/remote/ledger.ts';
import { encodeMeshDigest, hashEntry } from '../../mesh/wire/digest.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import {
  ipsPrefix,
  LOCAL_IPS_PREFIX,
  meshDigestKey,
  nodesPrefix,
  servicesPrefix,
} from '../../mesh/wire/keys.ts';

/** One change of a transaction; without a value it is a deletion. */
export interface DigestedChange {
  readonly key: string;
  readonly value: string | undefined;
}

/** Keeps digests in step with what is written. */
export interface Digests {
  /** A key was found in etcd with this value. */
  found(key: string, value: Uint8Array): void;
  /** Everything under a prefix was found: from now on its digest is known. */
  adopted(prefix: string): void;
  /** The operations that go into the transaction of these changes. */
  next(changes: readonly DigestedChange[]): readonly KvOp[];
  /** Nobody knows whether that transaction was carried out. */
  lost(changes: readonly DigestedChange[]): void;
}

interface Prefix {
  readonly prefix: string;
  readonly ledger: Ledger;
  /** Keys of which it is not known what stands in etcd. */
  readonly uncertain: Set<string>;
  isKnown: boolean;
  /** What stands in etcd is another one, or may be. */
  isDue: boolean;
}

/** Makes digests for one cluster; each hangs on `lease`, as what it is of does. */
export function createDigests(options: {
  readonly cluster: ClusterName;
  readonly lease: KvLease;
}): Digests {
  const { cluster, lease } = options;
  const prefixes: readonly Prefix[] = [
    nodesPrefix(cluster),
    ipsPrefix(cluster),
    LOCAL_IPS_PREFIX,
    servicesPrefix(cluster),
  ].map((prefix) => ({
    prefix,
    ledger: createLedger(),
    uncertain: new Set(),
    isKnown: false,
    isDue: true,
  }));
  const of = (key: string): Prefix | undefined =>
    prefixes.find(({ prefix }) => key.startsWith(prefix));

  // With the lease went everything that hung on it, the digests too.
  lease.onLost(() => {
    for (const one of prefixes) {
      one.ledger.clear();
      one.uncertain.clear();
      one.isDue = true;
    }
  });

  const operationOf = ({ prefix, ledger, uncertain, isKnown }: Prefix): KvOp => {
    const key = meshDigestKey(prefix);
    // A digest that may be wrong is worse than none.
    if (!isKnown || uncertain.size > 0) return { kind: 'delete', key };
    const sum = hex(ledger.sum.high) + hex(ledger.sum.low);
    return { kind: 'put', key, value: encodeMeshDigest({ count: ledger.size, sum }), lease };
  };

  return {
    found(key, value) {
      of(key)?.ledger.put(key, { host: 0, hash: hashEntry(key, value) });
    },
    adopted(prefix) {
      const one = prefixes.find((candidate) => candidate.prefix === prefix);
      if (one !== undefined) one.isKnown = true;
    },
    next(changes) {
      for (const { key, value } of changes) {
        const one = of(key);
        if (one === undefined) continue;
        one.isDue = true;
        one.uncertain.delete(key);
        if (value === undefined) one.ledger.delete(key);
        else one.ledger.put(key, { host: 0, hash: hashEntry(key, value) });
      }
      return prefixes.flatMap((one) => {
        if (!one.isDue) return [];
        one.isDue = false;
        return [operationOf(one)];
      });
    },
    lost(changes) {
      for (const { key } of changes) of(key)?.uncertain.add(key);
      for (const one of prefixes) one.isDue = true;
    },
  };
}

function hex(word: number): string {
  return word.toString(16).padStart(8, '0');
}
