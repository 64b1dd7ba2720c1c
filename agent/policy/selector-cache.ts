import type { Labels } from '../../mesh/wire/identity.ts';
import { RESERVED_IDENTITIES } from '../../mesh/wire/ids.ts';
import { type Requirement, type Selector, selectorMatches } from './selector.ts';
import { createSharedLabels } from './shared-labels.ts';

/** Identities of all clusters with their labels, and which of them each selector in use matches. No clock, no socket. */
export interface SelectorCache {
  labelsOf(identity: number): Labels | undefined;
  /** Adds, changes or (undefined) removes an identity, and tells the selectors in use that match it, or did. */
  setIdentity(identity: number, labels: Labels | undefined): void;
  /** Looks for the identities that a selector matches, and goes on telling `watch` which ones come and go. */
  add(selector: Selector, watch: SelectorWatch): SelectorHandle;
  identities(): Iterable<readonly [number, Labels]>;
  /** Identities known, without reserved ones and those that this node makes for itself. */
  readonly identityCount: number;
}

/** Is told when an identity comes to a selector, or leaves it. */
export type SelectorWatch = (identity: number, isIn: boolean) => void;

/** A selector in use. */
export interface SelectorHandle {
  readonly identities: ReadonlySet<number>;
  /** The selector is not in use any more. */
  remove(): void;
}

interface Entry {
  readonly selector: Selector;
  readonly watch: SelectorWatch;
  readonly identities: Set<number>;
}

/** Identities, and selectors in use, by the values of one key of labels. Kept for keys that some selector asks for. */
interface KeyIndex {
  readonly identities: Map<string, Set<number>>;
  readonly entries: Map<string, Set<Entry>>;
  /** Selectors in use that ask for a value of it. */
  users: number;
}

/** First of the numbers that a node gives to its own identities: Cilium's scopes in the high 8 bits. */
const FIRST_LOCAL = 1 << 24;
const NOBODY: ReadonlySet<number> = new Set();

/**
 * Makes a cache that knows the reserved identities, each by its `reserved:` label. A selector is found by one label that it
 * asks for, so that a new identity costs what the selectors with its labels cost, not what all do.
 */
export function createSelectorCache(): SelectorCache {
  const labelsByIdentity = new Map<number, Labels>();
  const shared = createSharedLabels();
  const keys = new Map<string, KeyIndex>();
  /** Selectors that ask for no value of any label. */
  const unindexed = new Set<Entry>();
  let localCount = 0;

  const indexIdentity = (identity: number, labels: Labels, isThere: boolean): void => {
    for (const { key, value } of labels) {
      const index = keys.get(key);
      if (index === undefined) continue;
      const known = index.identities.get(value);
      if (isThere) {
        if (known === undefined) index.identities.set(value, new Set([identity]));
        else known.add(identity);
      } else if (known?.delete(identity) === true && known.size === 0) {
        index.identities.delete(value);
      }
    }
  };
  const openKey = (key: string): KeyIndex => {
    const known = keys.get(key);
    if (known !== undefined) return known;
    const index: KeyIndex = { identities: new Map(), entries: new Map(), users: 0 };
    for (const [identity, labels] of labelsByIdentity) {
      for (const label of labels) {
        if (label.key !== key) continue;
        const identities = index.identities.get(label.value);
        if (identities === undefined) index.identities.set(label.value, new Set([identity]));
        else identities.add(identity);
      }
    }
    keys.set(key, index);
    return index;
  };
  /** Requirements of a value, those that the fewest identities meet first. */
  const byRarity = (selector: Selector): Requirement[] =>
    selector
      .filter(({ operator }) => operator === 'In')
      .map((requirement) => {
        const { identities } = openKey(requirement.key);
        let count = 0;
        for (const value of requirement.values) count += identities.get(value)?.size ?? 0;
        return { requirement, count };
      })
      .sort((a, b) => a.count - b.count)
      .map(({ requirement }) => requirement);
  const place = (anchor: Requirement, second: Requirement | undefined, entry: Entry): void => {
    const index = openKey(anchor.key);
    // Where a label has one value, most of those who have the first one are out without a look at their labels.
    const [value, ...others] = second?.values ?? [];
    const alsoIn =
      second === undefined || value === undefined || others.length > 0
        ? undefined
        : (openKey(second.key).identities.get(value) ?? NOBODY);
    for (const wanted of anchor.values) {
      const entries = index.entries.get(wanted) ?? new Set();
      index.entries.set(wanted, entries.add(entry));
      for (const identity of index.identities.get(wanted) ?? []) {
        if (alsoIn?.has(identity) === false) continue;
        const labels = labelsByIdentity.get(identity);
        if (labels !== undefined && selectorMatches(entry.selector, labels)) {
          entry.identities.add(identity);
        }
      }
    }
  };
  const displace = (anchor: Requirement, entry: Entry): void => {
    const index = keys.get(anchor.key);
    if (index === undefined) return;
    for (const value of anchor.values) {
      const entries = index.entries.get(value);
      entries?.delete(entry);
      if (entries?.size === 0) index.entries.delete(value);
    }
  };
  /** Counts who uses the indexes of a selector's keys: one that nobody uses would cost memory for nothing. */
  const useKeys = (selector: Selector, difference: 1 | -1): void => {
    for (const { key, operator } of selector) {
      if (operator !== 'In') continue;
      const index = openKey(key);
      index.users += difference;
      if (index.users === 0) keys.delete(key);
    }
  };

  function* entriesFor(labels: Labels): Generator<Entry> {
    for (const { key, value } of labels) yield* keys.get(key)?.entries.get(value) ?? [];
    yield* unindexed;
  }
  const settle = (entry: Entry, identity: number, labels: Labels | undefined): void => {
    const isIn = labels !== undefined && selectorMatches(entry.selector, labels);
    if (isIn === entry.identities.has(identity)) return;
    if (isIn) entry.identities.add(identity);
    else entry.identities.delete(identity);
    entry.watch(identity, isIn);
  };

  for (const [name, identity] of Object.entries(RESERVED_IDENTITIES)) {
    if (identity !== RESERVED_IDENTITIES.unknown) {
      labelsByIdentity.set(identity, shared.take([{ source: 'reserved', key: name, value: '' }]));
    }
  }
  const reservedCount = labelsByIdentity.size;

  return {
    labelsOf: (identity) => labelsByIdentity.get(identity),
    setIdentity(identity, labels) {
      const before = labelsByIdentity.get(identity);
      if (before === undefined && labels === undefined) return;
      if (identity >= FIRST_LOCAL && (before === undefined) !== (labels === undefined)) {
        localCount += labels === undefined ? -1 : 1;
      }
      const after = labels === undefined ? undefined : shared.take(labels);
      if (before !== undefined) {
        indexIdentity(identity, before, false);
        shared.drop(before);
      }
      if (after === undefined) labelsByIdentity.delete(identity);
      else {
        labelsByIdentity.set(identity, after);
        indexIdentity(identity, after, true);
      }
      for (const entry of entriesFor(before ?? [])) settle(entry, identity, after);
      for (const entry of entriesFor(after ?? [])) settle(entry, identity, after);
    },
    add(selector, watch) {
      const entry: Entry = { selector, watch, identities: new Set() };
      useKeys(selector, 1);
      const [anchor, second] = byRarity(selector);
      if (anchor === undefined) {
        unindexed.add(entry);
        for (const [identity, labels] of labelsByIdentity) {
          if (selectorMatches(selector, labels)) entry.identities.add(identity);
        }
      } else place(anchor, second, entry);
      return {
        identities: entry.identities,
        remove() {
          unindexed.delete(entry);
          if (anchor !== undefined) displace(anchor, entry);
          useKeys(selector, -1);
        },
      };
    },
    identities: () => labelsByIdentity.entries(),
    get identityCount() {
      return labelsByIdentity.size - reservedCount - localCount;
    },
  };
}
