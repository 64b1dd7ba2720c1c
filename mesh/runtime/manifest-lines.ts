/** On which lines of a YAML file the parts of a policy stand. */
import { isMap, isSeq, type LineCounter, type Node } from 'yaml';

const RULE_LISTS = ['ingress', 'ingressDeny', 'egress', 'egressDeny'] as const;
/** The rules of a longer policy are found by the line of their spec: a line each would make it larger than it is. */
const MAX_LINES = 2_000;

/**
 * Lines, counted from 1, by path: of the object (the empty path), of `spec` and `specs[0]`, of each rule `spec.ingress[0]`.
 * Anything may come in; what has no lines is left out.
 */
export function policyLines(object: unknown, counter: LineCounter): Record<string, number> {
  const lines: Record<string, number> = {};
  let count = 0;
  const add = (path: string, node: unknown): void => {
    const start = isNode(node) ? node.range?.[0] : undefined;
    if (start === undefined || count >= MAX_LINES) return;
    lines[path] = counter.linePos(start).line;
    count += 1;
  };
  const addSpec = (path: string, spec: unknown): void => {
    add(path, spec);
    for (const list of RULE_LISTS) {
      for (const [index, rule] of itemsOf(fieldOf(spec, list)).entries()) {
        add(`${path}.${list}[${index}]`, rule);
      }
    }
  };
  add('', object);
  const spec = fieldOf(object, 'spec');
  if (spec !== undefined) addSpec('spec', spec);
  for (const [index, item] of itemsOf(fieldOf(object, 'specs')).entries()) {
    addSpec(`specs[${index}]`, item);
  }
  return lines;
}

/** Field of a mapping as a node, undefined where there is none. */
export function fieldOf(node: unknown, field: string): unknown {
  return isMap(node) ? node.get(field, true) : undefined;
}

/** Items of a sequence, none of anything else. */
function itemsOf(node: unknown): readonly unknown[] {
  return isSeq(node) ? node.items : [];
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && 'range' in value;
}
