import type { Labels } from '../../mesh/wire/identity.ts';
import { RESERVED_IDENTITIES } from '../../mesh/wire/ids.ts';
import { type Selector, selectorMatches } from './selector.ts';
import { createSharedLabels } from './shared-labels.ts';

/** Identities of all clusters with their labels, and which of them each selector in use matches. No clock, no socket. */
export interface SelectorCache {
  labelsOf(identity: number): Labels | undefined;
  /** Adds, changes or (undefined) removes an identity. Returns whether any selector in use now matches differently. */
  setIdentity(identity: number, labels: Labels | undefined): boolean;
  /** Replaces the selectors in use, by their key; sets of those that stay are kept. */
  setSelectors(selectors: ReadonlyMap<string, Selector>): void;
  /** Identities that a selector in use matches. */
  matches(selectorKey: string): ReadonlySet<number>;
  readonly identityCount: number;
}

interface Entry {
  readonly selector: Selector;
  readonly identities: Set<number>;
}

const NONE: ReadonlySet<number> = new Set();

/** Makes a cache that knows the reserved identities, each by its `reserved:` label. */
export function createSelectorCache(): SelectorCache {
  const labelsByIdentity = new Map<number, Labels>();
  const shared = createSharedLabels();
  const entries = new Map<string, Entry>();
  for (const [name, identity] of Object.entries(RESERVED_IDENTITIES)) {
    if (identity !== RESERVED_IDENTITIES.unknown) {
      labelsByIdentity.set(identity, shared.take([{ source: 'reserved', key: name, value: '' }]));
    }
  }
  const reservedCount = labelsByIdentity.size;

  const evaluate = (selector: Selector): Set<number> => {
    const identities = new Set<number>();
    for (const [identity, labels] of labelsByIdentity) {
      if (selectorMatches(selector, labels)) identities.add(identity);
    }
    return identities;
  };

  return {
    labelsOf: (identity) => labelsByIdentity.get(identity),
    setIdentity(identity, labels) {
      const before = labelsByIdentity.get(identity);
      if (labels === undefined) labelsByIdentity.delete(identity);
      else labelsByIdentity.set(identity, shared.take(labels));
      if (before !== undefined) shared.drop(before);
      let changed = false;
      for (const { selector, identities } of entries.values()) {
        const wanted = labels !== undefined && selectorMatches(selector, labels);
        if (wanted === identities.has(identity)) continue;
        changed = true;
        if (wanted) identities.add(identity);
        else identities.delete(identity);
      }
      return changed;
    },
    setSelectors(selectors) {
      for (const key of entries.keys()) {
        if (!selectors.has(key)) entries.delete(key);
      }
      for (const [key, selector] of selectors) {
        if (!entries.has(key)) entries.set(key, { selector, identities: evaluate(selector) });
      }
    },
    matches: (key) => entries.get(key)?.identities ?? NONE,
    get identityCount() {
      return labelsByIdentity.size - reservedCount;
    },
  };
}
