import type { ParsedPolicy, PolicyProblem } from './rule.ts';

/**
 * What is to be said of a policy about nodes: it is compiled, traced and simulated, but no program judges what the nodes
 * themselves send and receive.
 */
export function nodeSubjectProblems({ clauses }: Pick<ParsedPolicy, 'clauses'>): PolicyProblem[] {
  if (!clauses.some(({ subject }) => subject.kind === 'nodes')) return [];
  const message =
    'spec.nodeSelector is not supported: policies about nodes are not enforced, nothing of this holds on any node';
  return [{ path: 'spec.nodeSelector', message }];
}
