/**
 * Rows of the ipcache by prefix, for a million of them: numbers in typed arrays, no object for a row. Rows are made when
 * they are asked for.
 */
import { createNameIndex } from '../../mesh/remote/name-index.ts';
import { localIdentityScope } from '../../mesh/wire/ids.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import type { SharedTexts } from './shared-texts.ts';

/** Rows by prefix. Behaves like a Map whose values are copied in and out; the order is none. */
export interface AddressRows {
  readonly size: number;
  get(prefix: string): IpcacheEntry | undefined;
  has(prefix: string): boolean;
  /** `mark`: a number of the caller's, kept beside the row. */
  set(prefix: string, row: IpcacheEntry, mark?: number): void;
  delete(prefix: string): boolean;
  /** Mark of a row, -1 where there is no row. Default: 0. */
  markOf(prefix: string): number;
  /** Whether the row of a prefix is like this one. False where there is none. */
  isLike(prefix: string, row: IpcacheEntry): boolean;
  values(): Generator<IpcacheEntry>;
  [Symbol.iterator](): Generator<[string, IpcacheEntry]>;
  /** Clusters that rows came from. */
  clusters(): number[];
  /** Rows that came from a cluster. They may be deleted meanwhile. */
  ofCluster(clusterId: number): Generator<IpcacheEntry>;
  /** Rows with identities that a node gives for itself. */
  withLocalIdentity(): Generator<IpcacheEntry>;
}

const WORDS = 4;
const [IDENTITY, TUNNEL, CLUSTER, MARK] = [0, 1, 2, 3] as const;
const FIRST_CAPACITY = 32;

/** Makes an empty one. `hosts`: addresses of hosts, which may be shared with others of its kind. */
export function createAddressRows(hosts: SharedTexts): AddressRows {
  const index = createNameIndex();
  /** Rows of each cluster, by its id. */
  const counts: number[] = [];
  /** Rows with identities that a node gives for itself: mostly none, and it is asked often. */
  let locals = 0;
  let cells: Uint32Array = new Uint32Array(0);

  const count = (clusterId: number, difference: 1 | -1): void => {
    while (counts.length <= clusterId) counts.push(0);
    counts[clusterId] = (counts[clusterId] ?? 0) + difference;
  };
  const rowAt = (number: number, prefix: string): IpcacheEntry => {
    const at = number * WORDS;
    // What is in here was a row: what it is made of was checked when that was made.
    return {
      prefix: prefix as IpPrefix,
      identity: (cells[at + IDENTITY] ?? 0) as IpcacheEntry['identity'],
      tunnelEndpoint: hosts.textOf(cells[at + TUNNEL] ?? 0) as IpAddress | undefined,
      clusterId: cells[at + CLUSTER] ?? 0,
    };
  };
  function* numbered(): Generator<[number, string]> {
    if (index.size === 0) return;
    for (let number = 0; number < index.used; number += 1) {
      const prefix = index.nameOf(number);
      if (prefix !== undefined) yield [number, prefix];
    }
  }

  return {
    get size() {
      return index.size;
    },
    get(prefix) {
      const number = index.find(prefix);
      return number === -1 ? undefined : rowAt(number, prefix);
    },
    has: (prefix) => index.find(prefix) !== -1,
    set(prefix, { identity, tunnelEndpoint, clusterId }, mark = 0) {
      const { size } = index;
      const number = index.add(prefix);
      const at = number * WORDS;
      if (at >= cells.length) cells = grown(cells, at + WORDS);
      if (index.size > size) {
        count(clusterId, 1);
        cells[at + TUNNEL] = tunnelEndpoint === undefined ? 0 : hosts.take(tunnelEndpoint);
      } else {
        if (isLocal(cells[at + IDENTITY] ?? 0)) locals -= 1;
        const [before, clusterBefore] = [cells[at + TUNNEL] ?? 0, cells[at + CLUSTER] ?? 0];
        if (hosts.textOf(before) !== tunnelEndpoint) {
          cells[at + TUNNEL] = tunnelEndpoint === undefined ? 0 : hosts.take(tunnelEndpoint);
          hosts.drop(before);
        }
        if (clusterBefore !== clusterId) {
          count(clusterBefore, -1);
          count(clusterId, 1);
        }
      }
      if (isLocal(identity)) locals += 1;
      cells[at + IDENTITY] = identity;
      cells[at + CLUSTER] = clusterId;
      cells[at + MARK] = mark;
    },
    delete(prefix) {
      const number = index.delete(prefix);
      if (number === -1) return false;
      hosts.drop(cells[number * WORDS + TUNNEL] ?? 0);
      count(cells[number * WORDS + CLUSTER] ?? 0, -1);
      if (isLocal(cells[number * WORDS + IDENTITY] ?? 0)) locals -= 1;
      return true;
    },
    markOf(prefix) {
      const number = index.find(prefix);
      return number === -1 ? -1 : (cells[number * WORDS + MARK] ?? 0);
    },
    isLike(prefix, row) {
      const number = index.find(prefix);
      if (number === -1) return false;
      const at = number * WORDS;
      return (
        cells[at + IDENTITY] === row.identity &&
        cells[at + CLUSTER] === row.clusterId &&
        hosts.textOf(cells[at + TUNNEL] ?? 0) === row.tunnelEndpoint
      );
    },
    *values() {
      for (const [number, prefix] of numbered()) yield rowAt(number, prefix);
    },
    *[Symbol.iterator]() {
      for (const [number, prefix] of numbered()) yield [prefix, rowAt(number, prefix)];
    },
    *withLocalIdentity() {
      for (let number = 0; locals > 0 && number < index.used; number += 1) {
        if (!isLocal(cells[number * WORDS + IDENTITY] ?? 0)) continue;
        const prefix = index.nameOf(number);
        if (prefix !== undefined) yield rowAt(number, prefix);
      }
    },
    clusters: () => counts.flatMap((rows, clusterId) => (rows > 0 ? [clusterId] : [])),
    *ofCluster(clusterId) {
      let left = counts[clusterId] ?? 0;
      const { used } = index;
      for (let number = 0; left > 0 && number < used; number += 1) {
        if (cells[number * WORDS + CLUSTER] !== clusterId) continue;
        const prefix = index.nameOf(number);
        if (prefix === undefined) continue;
        left -= 1;
        yield rowAt(number, prefix);
      }
    },
  };
}

function isLocal(identity: number): boolean {
  return localIdentityScope(identity) !== undefined;
}

function grown(cells: Uint32Array, length: number): Uint32Array {
  const next = new Uint32Array(
    Math.max(FIRST_CAPACITY * WORDS, length, Math.ceil(cells.length / WORDS / 2) * 3 * WORDS),
  );
  next.set(cells);
  return next;
}
