/** One rule of a CiliumNetworkPolicy or CiliumClusterwideNetworkPolicy. */
import { parsePeers, parseRequires, peerFields } from './cilium-peers.ts';
import { parseRulePorts } from './cilium-ports.ts';
import { isAbsent, recordAt, refuseOthers } from './manifest-field.ts';
import type { ParseContext } from './parse-context.ts';
import { PolicyError } from './policy-error.ts';
import type { Direction, PeerMatch, Rule } from './rule.ts';

/** Which of a spec's four lists a rule stands in. */
export interface RulePlace {
  /** Of the rule itself: `spec.ingressDeny[0]`. */
  readonly path: string;
  readonly direction: Direction;
  readonly verdict: Rule['verdict'];
}

const AUTHENTICATION_FIELDS = new Set(['mode']);
const FIELDS: Readonly<Record<Direction, ReadonlySet<string>>> = {
  ingress: fieldsOf('from'),
  egress: fieldsOf('to'),
};

/** Parses a rule. Throws PolicyError for whatever cannot be enforced as it is written. */
export function parseCiliumRule(value: unknown, place: RulePlace, context: ParseContext): Rule {
  const { path, direction } = place;
  const prefix = direction === 'ingress' ? 'from' : 'to';
  const object = recordAt(value ?? {}, path);
  refuseAuthentication(object.authentication, `${path}.authentication`);
  refuseOthers(object, FIELDS[direction], path);
  const requiresField = `${prefix}Requires`;
  const requires = parseRequires(object[requiresField], `${path}.${requiresField}`, context);
  const { ports, areNamed } = parseRulePorts(object, path);
  const named = parsePeers(object, { path, prefix, context });
  // Without other sides, ports are meant for all of them; a wholly empty rule only turns enforcement on, and conditions
  // grant nothing by themselves.
  const open: readonly PeerMatch[] = areNamed && requires.length === 0 ? [{ kind: 'any' }] : [];
  return { ...place, peers: named ?? open, ports, requires };
}

function fieldsOf(prefix: 'from' | 'to'): ReadonlySet<string> {
  return new Set([
    ...peerFields(prefix),
    `${prefix}Requires`,
    'toPorts',
    'icmps',
    'authentication',
  ]);
}

/** `disabled` is what holds without the field. */
function refuseAuthentication(value: unknown, path: string): void {
  if (isAbsent(value)) return;
  const object = recordAt(value, path);
  refuseOthers(object, AUTHENTICATION_FIELDS, path);
  if (object.mode === 'disabled') return;
  throw new PolicyError('unsupported', path, 'is not supported by this version');
}
