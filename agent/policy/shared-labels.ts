/** Labels that many identities have in common, each kept once: a mesh has far fewer labels than identities times labels. */
import type { Label, Labels } from '../../mesh/wire/identity.ts';
import { copyText } from '../merge/shared-texts.ts';

/** Labels with how often each is taken. */
export interface SharedLabels {
  /** The same labels, made of those that are kept here until they were dropped as often as they were taken. */
  take(labels: Labels): Labels;
  /** Takes labels that `take` returned. */
  drop(labels: Labels): void;
  /** Different labels that are kept. */
  readonly size: number;
}

interface Shared {
  readonly label: Label;
  count: number;
}

/** Makes an empty set. */
export function createSharedLabels(): SharedLabels {
  /** By source and key, of which there are few, then by value. */
  const kinds = new Map<string, Map<string, Shared>>();
  let size = 0;

  const takeOne = (label: Label): Label => {
    const { source, key, value } = label;
    const kind = kindOf(label);
    let values = kinds.get(kind);
    const known = values?.get(value);
    if (known !== undefined) {
      known.count += 1;
      return known.label;
    }
    const [first] = values?.values() ?? [];
    if (values === undefined) {
      values = new Map();
      kinds.set(copyText(kind), values);
    }
    const copy = {
      source: first?.label.source ?? copyText(source),
      key: first?.label.key ?? copyText(key),
      value: copyText(value),
    };
    values.set(copy.value, { label: copy, count: 1 });
    size += 1;
    return copy;
  };
  const dropOne = (label: Label): void => {
    const kind = kindOf(label);
    const values = kinds.get(kind);
    const known = values?.get(label.value);
    if (values === undefined || known === undefined) return;
    known.count -= 1;
    if (known.count > 0) return;
    values.delete(label.value);
    size -= 1;
    if (values.size === 0) kinds.delete(kind);
  };

  return {
    take: (labels) => labels.map(takeOne),
    drop: (labels) => labels.forEach(dropOne),
    get size() {
      return size;
    },
  };
}

/** A source has no ":" in it. */
function kindOf({ source, key }: Label): string {
  return `${source}:${key}`;
}
