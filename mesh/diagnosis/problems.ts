/**
 * Every problem that the project knows by name: one table for `status`, `troubleshoot`, `check`, the preflight of peers and the
 * documentation. An id is never given to another problem. Pure.
 */
import { CLUSTER_PROBLEMS } from './cluster-problems.ts';
import { DATAPATH_PROBLEMS } from './datapath-problems.ts';
import { PEER_PROBLEMS } from './peer-problems.ts';

/** The table. */
export const PROBLEMS = { ...PEER_PROBLEMS, ...CLUSTER_PROBLEMS, ...DATAPATH_PROBLEMS } as const;

/** Names of problems. */
export type ProblemId = keyof typeof PROBLEMS;

/** Whether a text is the name of a problem that this version knows. */
export function isProblemId(text: string): text is ProblemId {
  return Object.hasOwn(PROBLEMS, text);
}
