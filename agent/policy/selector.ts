import type { Labels } from '../../mesh/wire/identity.ts';
import { listAt, recordAt, refuseOthers } from './manifest-field.ts';
import { PolicyError } from './policy-error.ts';

/** Source of a requirement that matches a label of any source, Cilium's default in its own policies. */
export const ANY_SOURCE = 'any';

/** One condition on labels. All conditions of a selector must hold. */
export interface Requirement {
  readonly source: string;
  readonly key: string;
  readonly operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
  /** Sorted; empty for the last two operators. */
  readonly values: readonly string[];
}

/** A conjunction of requirements; an empty one matches everything. */
export type Selector = readonly Requirement[];

const SELECTOR_FIELDS = new Set(['matchLabels', 'matchExpressions']);
const EXPRESSION_FIELDS = new Set(['key', 'operator', 'values']);
const OPERATORS = ['In', 'NotIn', 'Exists', 'DoesNotExist'] as const;

/** Whether labels meet every requirement (Kubernetes' rules: NotIn and DoesNotExist hold for an absent label). */
export function selectorMatches(selector: Selector, labels: Labels): boolean {
  return selector.every((requirement) => {
    const { source, key, operator, values } = requirement;
    const found = labels.filter(
      (label) => label.key === key && (source === ANY_SOURCE || label.source === source),
    );
    switch (operator) {
      case 'In':
        return found.some(({ value }) => values.includes(value));
      case 'NotIn':
        return found.every(({ value }) => !values.includes(value));
      case 'Exists':
        return found.length > 0;
      case 'DoesNotExist':
        return found.length === 0;
      default:
        return operator satisfies never;
    }
  });
}

/** Text that is equal for selectors that ask the same in whatever order. */
export function selectorKey(selector: Selector): string {
  return selector
    .map(({ source, key, operator, values }) => JSON.stringify([source, key, operator, ...values]))
    .sort()
    .join(' ');
}

/** Whether a selector asks for a label of that key, under the source given or any. */
export function asksFor(selector: Selector, key: string, source: string): boolean {
  return selector.some(
    (requirement) =>
      requirement.key === key &&
      (requirement.source === source || requirement.source === ANY_SOURCE),
  );
}

/** A requirement of one label's value. */
export function requireLabel(source: string, key: string, value: string): Requirement {
  return { source, key, operator: 'In', values: [value] };
}

/** A requirement that a label is there. */
export function requirePresence(source: string, key: string): Requirement {
  return { source, key, operator: 'Exists', values: [] };
}

/**
 * Parses a Kubernetes label selector. With `sourced` a key may begin with a source (`k8s:app`, `reserved:host`), as in
 * Cilium's policies, and matches any source without one; otherwise keys are Kubernetes'. `keyPrefix` stands before each
 * key, for namespace labels. Throws PolicyError naming the field.
 */
export function parseSelector(
  value: unknown,
  options: { path: string; sourced: boolean; keyPrefix?: string },
): Selector {
  const { path } = options;
  const object = recordAt(value, path);
  refuseOthers(object, SELECTOR_FIELDS, path);
  const requirements: Requirement[] = [];
  if (object.matchLabels !== undefined && object.matchLabels !== null) {
    const labels = recordAt(object.matchLabels, `${path}.matchLabels`);
    for (const [name, wanted] of Object.entries(labels)) {
      if (typeof wanted !== 'string') {
        const at = `${path}.matchLabels["${name.slice(0, 100)}"]`;
        throw new PolicyError('invalid', at, 'must be a string');
      }
      requirements.push({ ...splitKey(name, options), operator: 'In', values: [wanted] });
    }
  }
  listAt(object.matchExpressions, `${path}.matchExpressions`).forEach((expression, index) => {
    requirements.push(parseExpression(expression, `${path}.matchExpressions[${index}]`, options));
  });
  return requirements;
}

function parseExpression(
  value: unknown,
  path: string,
  options: { sourced: boolean; keyPrefix?: string },
): Requirement {
  const object = recordAt(value, path);
  refuseOthers(object, EXPRESSION_FIELDS, path);
  const { key, operator: operatorText } = object;
  if (typeof key !== 'string' || key === '') {
    throw new PolicyError('invalid', `${path}.key`, 'must be the name of a label');
  }
  const operator = OPERATORS.find((known) => known === operatorText);
  if (operator === undefined) {
    throw new PolicyError('invalid', `${path}.operator`, `must be one of ${OPERATORS.join(', ')}`);
  }
  const values = listAt(object.values, `${path}.values`).map((item, index) => {
    if (typeof item === 'string') return item;
    throw new PolicyError('invalid', `${path}.values[${index}]`, 'must be a string');
  });
  const needsValues = operator === 'In' || operator === 'NotIn';
  if (needsValues !== values.length > 0) {
    const complaint = needsValues ? 'must not be empty' : 'must be empty';
    throw new PolicyError('invalid', `${path}.values`, `${complaint} with operator ${operator}`);
  }
  return { ...splitKey(key, options), operator, values: values.sort() };
}

function splitKey(
  name: string,
  { sourced, keyPrefix = '' }: { sourced: boolean; keyPrefix?: string },
): { source: string; key: string } {
  if (!sourced) return { source: 'k8s', key: keyPrefix + name };
  const colon = name.indexOf(':');
  if (colon <= 0) return { source: ANY_SOURCE, key: name };
  return { source: name.slice(0, colon), key: name.slice(colon + 1) };
}
