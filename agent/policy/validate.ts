/** Whether policies in files say what can be enforced, without a cluster. */
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { parseCidrGroup } from './cidr-group.ts';
import { policyName } from './compile.ts';
import { parsePolicy } from './parse.ts';
import type { ParsedPolicy, PolicyProblem } from './rule.ts';
import { lineOf } from './sources-of-verdict-info.ts';
import { type Finding, type ManifestFile, readManifests } from './validate-manifest.ts';

/** What was found. */
export interface Validation {
  /** What can be read, also of objects with problems. */
  readonly policies: readonly LocalPolicy[];
  /** In the order of the files and their lines. */
  readonly findings: readonly Finding[];
}

/** How selectors are read. */
export interface ValidateOptions {
  readonly clusterName: ClusterName;
  /** A selector of peers without a cluster label means the own cluster. */
  readonly defaultLocalCluster: boolean;
}

/** Checks files as an agent would read them. Never throws for what stands in them. */
export function validatePolicies(
  files: readonly ManifestFile[],
  options: ValidateOptions,
): Validation {
  const read = files.map(readManifests);
  const policies = read.flatMap((one) => one.policies);
  const findings = read.flatMap((one) => one.findings);
  const seen = new Map<string, LocalPolicy>();
  const groups = new Set(
    policies.flatMap(({ kind, name }) => (kind === 'CiliumCIDRGroup' ? [name] : [])),
  );
  for (const policy of policies) {
    const object = policyName(policy);
    const tell = (severity: Finding['severity'], path: string, message: string): void => {
      const { origin } = policy;
      const line = (origin === undefined ? undefined : lineOf(origin, path)) ?? origin?.lines[''];
      findings.push({ severity, file: origin?.file ?? '', line: line ?? 1, object, message });
    };
    const first = seen.get(object);
    if (first === undefined) seen.set(object, policy);
    else {
      const where = `${first.origin?.file}:${first.origin?.lines['']}`;
      tell('problem', '', `is in ${where} already: only one of the two would be in force`);
    }
    for (const { path, message } of problemsOf(policy, options)) tell('problem', path, message);
    for (const { path, name } of groupsNamed(policy, options)) {
      if (groups.has(name)) continue;
      tell(
        'note',
        path,
        `CiliumCIDRGroup ${name} is not in these files: without it the rule is about nobody`,
      );
    }
  }
  const order = new Map(files.map(({ name }, index) => [name, index]));
  return {
    policies,
    findings: findings.sort(
      (a, b) => (order.get(a.file) ?? 0) - (order.get(b.file) ?? 0) || a.line - b.line,
    ),
  };
}

function problemsOf(policy: LocalPolicy, options: ValidateOptions): readonly PolicyProblem[] {
  if (policy.kind === 'CiliumCIDRGroup') return parseCidrGroup(policy).problems;
  return parsePolicy(policy, options).problems;
}

function groupsNamed(
  policy: LocalPolicy,
  options: ValidateOptions,
): { readonly path: string; readonly name: string }[] {
  const parsed: ParsedPolicy = parsePolicy(policy, options);
  return parsed.clauses.flatMap(({ rules }) =>
    rules.flatMap(({ path, peers }) =>
      peers.flatMap((peer) =>
        peer.kind === 'cidr-group' && 'name' in peer.group ? [{ path, name: peer.group.name }] : [],
      ),
    ),
  );
}
