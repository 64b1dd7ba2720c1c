/** Gathers the rules of one spec, good and bad. */
import { PolicyError } from './policy-error.ts';
import {
  ANY_PORT,
  type PolicyClause,
  type PolicyProblem,
  type PortMatch,
  type Rule,
} from './rule.ts';

/** Blocks of ports that all rules of one spec may come to: each is a row in the kernel for each peer. */
const MAX_PORT_BLOCKS = 20_000;
/** A manifest of nothing but mistakes is described by its first ones. */
const MAX_PROBLEMS = 100;

/** A spec with what is wrong in it. */
export interface ParsedClause {
  readonly clause: PolicyClause;
  readonly problems: readonly PolicyProblem[];
}

/** Takes rules. */
export interface RuleGather {
  /** Adds what `parse` returns; for what it refuses with a PolicyError, what closes instead, and a problem. */
  add(place: Pick<Rule, 'path' | 'direction' | 'verdict'>, parse: () => Rule): void;
  readonly rules: readonly Rule[];
}

/** Makes an empty one; `problems` is written to. */
export function createRuleGather(
  subject: PolicyClause['subject']['kind'],
  problems: PolicyProblem[],
): RuleGather {
  const rules: Rule[] = [];
  let blocks = 0;
  return {
    add(place, parse) {
      try {
        const rule = parse();
        const ports = distinctPorts(rule.ports);
        blocks += ports.length;
        if (blocks > MAX_PORT_BLOCKS) {
          throw new PolicyError(
            'unsupported',
            place.path,
            `brings the policy to more than ${MAX_PORT_BLOCKS} blocks of ports: divide it`,
          );
        }
        rules.push({ ...rule, ports });
      } catch (error) {
        if (!(error instanceof PolicyError)) throw error;
        addProblem(problems, error, consequenceOf(place, subject));
        if (place.verdict === 'deny') {
          rules.push({ ...place, peers: [{ kind: 'any' }], ports: [ANY_PORT], requires: [] });
        }
      }
    },
    rules,
  };
}

/** What stands for a spec that cannot be read although it is known whom it is about. Rethrows what is no PolicyError. */
export function isolatedClause(
  subject: PolicyClause['subject'],
  error: unknown,
  problems: readonly PolicyProblem[],
): ParsedClause {
  if (!(error instanceof PolicyError)) throw error;
  const { path, message } = error;
  const consequence = `until it is corrected nothing may reach or leave the ${subject.kind} selected`;
  return {
    clause: { subject, ingressEnforced: true, egressEnforced: true, isolates: true, rules: [] },
    // However many there are already: this one says why everything is closed.
    problems: [...problems, { path, message: `${message}: ${consequence}` }],
  };
}

function addProblem(problems: PolicyProblem[], error: PolicyError, consequence: string): void {
  if (problems.length >= MAX_PROBLEMS) return;
  problems.push({ path: error.path, message: `${error.message}: ${consequence}` });
}

function consequenceOf(
  { direction, verdict }: Pick<Rule, 'direction' | 'verdict'>,
  subject: PolicyClause['subject']['kind'],
): string {
  if (verdict === 'allow') return 'the rule allows nothing';
  const verb = direction === 'ingress' ? 'reach' : 'leave';
  return `until it is corrected nothing may ${verb} the ${subject} selected`;
}

function distinctPorts(ports: readonly PortMatch[]): PortMatch[] {
  const byKey = new Map<string, PortMatch>();
  for (const port of ports) {
    const key =
      port.kind === 'named'
        ? `${port.protocol} ${port.name}`
        : `${port.protocol}/${port.port}/${port.portPrefixBits}`;
    byKey.set(key, port);
  }
  return [...byKey.values()];
}
