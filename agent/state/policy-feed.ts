/** Policies of the own cluster on their way to the compiler: parsed, and the last version that could be read kept. */
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { LocalPolicy, PolicyOrigin } from '../../mesh/wire/local-policy.ts';
import { parseCidrGroup } from '../policy/cidr-group.ts';
import { policyName } from '../policy/compile.ts';
import { parsePolicy } from '../policy/parse.ts';
import type { CidrPrefixes } from '../policy/peer-sets.ts';
import type { ParsedPolicy, PolicyProblem } from '../policy/rule.ts';
import type { FormerPolicies } from './former-policies.ts';
import type { PolicyState } from './policy-state.ts';

/** A CiliumCIDRGroup as it is in force. */
export interface GroupInForce extends CidrPrefixes {
  readonly name: string;
  readonly generation: number;
  readonly problems: readonly PolicyProblem[];
}

/** Takes policies as their authors wrote them. */
export interface PolicyFeed {
  /** `key`: as the own cluster has it. Undefined: it is gone. */
  set(key: string, policy: LocalPolicy | undefined): void;
  /** Where a policy in force was written, where that is known. */
  originOf(policy: ParsedPolicy): PolicyOrigin | undefined;
  groups(): Iterable<GroupInForce>;
  /** Every policy has been set once: what was kept of others is not needed. */
  complete(): void;
}

/** No version outlives the process. */
const NOTHING_KEPT: FormerPolicies = {
  get: () => undefined,
  set: () => undefined,
  prune: () => undefined,
};

/** Makes an empty one that feeds `state`. */
export function createPolicyFeed(
  state: Pick<PolicyState, 'setPolicy' | 'setCidrGroup'>,
  options: {
    readonly clusterName: ClusterName;
    readonly defaultLocalCluster: boolean;
    /** Where a version that stays in force is kept for the next process. Default: nowhere. */
    readonly former?: FormerPolicies | undefined;
    readonly logger: Pick<Logger, 'warn'>;
  },
): PolicyFeed {
  const { former = NOTHING_KEPT, logger } = options;
  const known = new Set<string>();
  /** The version of each policy or group that could be read and came last. */
  const lastGood = new Map<string, LocalPolicy>();
  const groups = new Map<string, GroupInForce>();
  const origins = new WeakMap<ParsedPolicy, PolicyOrigin>();

  const warn = (policy: string, problems: readonly PolicyProblem[]): void => {
    for (const { message } of problems) {
      logger.warn({ policy, problem: message }, 'policy is not enforced as written');
    }
  };
  /** The version to be in force: this one, or the last that could be read. */
  const choose = (key: string, policy: LocalPolicy, isReadable: boolean): LocalPolicy => {
    if (isReadable) {
      lastGood.set(key, policy);
      former.set(key, undefined);
      return policy;
    }
    const good = lastGood.get(key) ?? former.get(key);
    if (good === undefined) return policy;
    lastGood.set(key, good);
    former.set(key, good);
    return good;
  };
  const setGroup = (key: string, policy: LocalPolicy): void => {
    const parsed = parseCidrGroup(policy);
    const good = choose(key, policy, parsed.prefixes !== undefined);
    const inForce = good === policy ? parsed : parseCidrGroup(good);
    const problems = [...parsed.problems, ...staying(policy, good)];
    const { name, generation } = parsed;
    const { labels, prefixes } = inForce;
    const group: GroupInForce = { name, generation, labels, prefixes, problems };
    groups.set(key, group);
    state.setCidrGroup(name, group);
    warn(`CiliumCIDRGroup ${name}`, problems);
  };
  const setPolicy = (key: string, policy: LocalPolicy): void => {
    const parsed = parsePolicy(policy, options);
    const good = choose(key, policy, isReadable(parsed));
    const { clauses } = good === policy ? parsed : parsePolicy(good, options);
    const problems = [...parsed.problems, ...staying(policy, good)];
    const inForce = { ...parsed, clauses, problems };
    known.add(key);
    // Rules of an older version stand at its lines.
    if (good.origin !== undefined) origins.set(inForce, good.origin);
    state.setPolicy(key, inForce);
    warn(policyName(inForce), problems);
  };
  const remove = (key: string): void => {
    const group = groups.get(key);
    if (group !== undefined) state.setCidrGroup(group.name, undefined);
    if (known.delete(key)) state.setPolicy(key, undefined);
    groups.delete(key);
    lastGood.delete(key);
    former.set(key, undefined);
  };

  return {
    set(key, policy) {
      if (policy === undefined) remove(key);
      else if (policy.kind === 'CiliumCIDRGroup') setGroup(key, policy);
      else setPolicy(key, policy);
    },
    originOf: (policy) => origins.get(policy),
    groups: () => groups.values(),
    complete: () => former.prune((key) => known.has(key) || groups.has(key)),
  };
}

/** Whether all of a policy says whom it is about and what: no clause closes somebody only because it cannot be read. */
function isReadable({ clauses }: ParsedPolicy): boolean {
  return !clauses.some(({ isolates }) => isolates);
}

/** What is to be said where another version is in force. */
function staying(policy: LocalPolicy, good: LocalPolicy): PolicyProblem[] {
  if (good === policy) return [];
  const message = `generation ${policy.generation} cannot be read: generation ${good.generation} stays in force until it is corrected`;
  return [{ path: '', message }];
}
