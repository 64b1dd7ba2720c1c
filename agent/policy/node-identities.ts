/** Nodes of all clusters by what policies with `fromNodes` and `toNodes` make of their labels. */
import type { Labels } from '../../mesh/wire/identity.ts';
import type { LocalIdentity } from '../../mesh/wire/ids.ts';
import { createLocalIdentities, type LocalIdentities } from './local-identities.ts';
import { type Selector, selectorKey, selectorMatches } from './selector.ts';
import { createSharedLabels } from './shared-labels.ts';

/**
 * Nodes that the same selectors match are alike and have one identity; a node that none matches has none of its own and
 * stays `remote-node`, so that without such policies there is no identity here at all. This node is always `host`.
 */
export interface NodeIdentities {
  /** `key`: cluster and name. Undefined: it is gone. `isOwn`: this node. */
  setNode(key: string, labels: Labels | undefined, options?: { readonly isOwn: boolean }): void;
  /** Has nodes told apart by a selector. As often as it is added, it must be removed. */
  addSelector(selector: Selector): void;
  removeSelector(selector: Selector): void;
  /**
   * Gives nodes the identities of what they are alike with. `preferred`: the one that a previous process gave a node. To
   * be called when something has changed, with monotonic milliseconds.
   */
  refresh(now: number, preferred: (key: string) => number | undefined): void;
  /** Nodes whose identity changed since the last call; undefined: it has none of its own. */
  takeChanges(): ReadonlyMap<string, LocalIdentity | undefined>;
  /** Identities of the nodes that a selector in use matches. This node is none of them: rules of nodes are about `remote-node`. */
  identitiesOf(selector: Selector): number[];
  labelsOf(key: string): Labels | undefined;
  /** Something has changed since the last `refresh`. */
  readonly isStale: boolean;
  readonly local: LocalIdentities;
}

interface KnownNode {
  readonly labels: Labels;
  readonly isOwn: boolean;
  readonly isGone: boolean;
  /** Key of those that it is alike with; empty: of none. */
  group: string;
}

/** Makes an empty one. `watch` is told when an identity comes to be, and when it is no more. */
export function createNodeIdentities(
  watch: (identity: number, isThere: boolean) => void,
): NodeIdentities {
  const nodes = new Map<string, KnownNode>();
  const selectors = new Map<string, { readonly selector: Selector; count: number }>();
  const changes = new Map<string, LocalIdentity | undefined>();
  const dirty = new Set<string>();
  const shared = createSharedLabels();
  /** Keys of the selectors that match the nodes of an identity. */
  const matchedBy = new Map<number, ReadonlySet<string>>();
  const local = createLocalIdentities('node', ({ identity }, isThere) => {
    if (!isThere) matchedBy.delete(identity);
    watch(identity, isThere);
  });

  const matching = (labels: Labels): string[] => {
    const matched: string[] = [];
    for (const [key, { selector }] of selectors) {
      if (selectorMatches(selector, labels)) matched.push(key);
    }
    return matched.sort();
  };
  const leave = (node: KnownNode, now: number): void => {
    if (node.group !== '') local.release(node.group, now);
    node.group = '';
  };

  return {
    local,
    setNode(key, labels, { isOwn } = { isOwn: false }) {
      const before = nodes.get(key);
      const group = before?.group ?? '';
      if (labels !== undefined) {
        nodes.set(key, { labels: shared.take(labels), isOwn, isGone: false, group });
      } else if (before !== undefined) {
        nodes.set(key, { labels: [], isOwn, isGone: true, group });
      }
      if (before !== undefined) shared.drop(before.labels);
      dirty.add(key);
    },
    addSelector(selector) {
      const key = selectorKey(selector);
      const known = selectors.get(key);
      if (known === undefined) {
        selectors.set(key, { selector, count: 1 });
        for (const name of nodes.keys()) dirty.add(name);
      } else known.count += 1;
    },
    removeSelector(selector) {
      const key = selectorKey(selector);
      const known = selectors.get(key);
      if (known === undefined) return;
      known.count -= 1;
      if (known.count > 0) return;
      selectors.delete(key);
      for (const name of nodes.keys()) dirty.add(name);
    },
    refresh(now, preferred) {
      for (const key of dirty) {
        const node = nodes.get(key);
        if (node === undefined) continue;
        const matched = node.isGone || node.isOwn ? [] : matching(node.labels);
        // The key of a selector that asks for nothing is empty.
        const group = matched.map((name) => name || 'any').join(' and ');
        if (node.isGone) nodes.delete(key);
        if (group === node.group) continue;
        leave(node, now);
        if (group === '') {
          changes.set(key, undefined);
          continue;
        }
        node.group = group;
        const { identity } = local.hold(group, preferred(key));
        matchedBy.set(identity, new Set(matched));
        changes.set(key, identity);
      }
      dirty.clear();
    },
    takeChanges() {
      const taken = new Map(changes);
      changes.clear();
      return taken;
    },
    identitiesOf(selector) {
      const key = selectorKey(selector);
      const found: number[] = [];
      for (const [identity, matched] of matchedBy) if (matched.has(key)) found.push(identity);
      return found;
    },
    labelsOf: (key) => nodes.get(key)?.labels,
    get isStale() {
      return dirty.size > 0;
    },
  };
}
