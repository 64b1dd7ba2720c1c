/** What manifests of permissions allow, use by use, and how a use is missed. */
import { readFile } from 'node:fs/promises';
import { parseAllDocuments } from 'yaml';
import type { KubeRule } from '../peers/kube-user.ts';
import { manifest } from './mcs-rig.ts';

/** Rules that a file's ClusterRoles and Roles hold. */
export async function rulesOf(file: string): Promise<readonly KubeRule[]> {
  const text = await readFile(manifest(file), 'utf8');
  return parseAllDocuments(text).flatMap((document) => {
    const { kind, rules = [] } = document.toJS() as { kind: string; rules?: readonly KubeRule[] };
    return kind === 'ClusterRole' || kind === 'Role' ? rules : [];
  });
}

/** What rules allow, one by one: `create services`; names of objects are left out. */
export function usesOf(rules: readonly KubeRule[]): string[] {
  const uses = rules.flatMap(({ apiGroups = [], resources = [], verbs }) =>
    verbs.flatMap((verb) =>
      resources.map((resource) => `${verb} ${resource}${apiGroups[0] && `.${apiGroups[0]}`}`),
    ),
  );
  return [...new Set(uses)];
}

/** The same rules without some uses. */
export function without(
  rules: readonly KubeRule[],
  isLeftOut: (use: string) => boolean,
): KubeRule[] {
  return rules
    .flatMap((rule) =>
      (rule.resources ?? []).map((resource) => ({
        ...rule,
        resources: [resource],
        verbs: rule.verbs.filter(
          (verb) => !usesOf([{ ...rule, resources: [resource], verbs: [verb] }]).some(isLeftOut),
        ),
      })),
    )
    .filter(({ verbs }) => verbs.length > 0);
}

/** How the API server, or we, say that a use is not allowed. */
export function refusalOf(use: string): RegExp {
  const [, verb = '', resource = ''] = /^(\S+) ([^.]+)/.exec(use) ?? [];
  return new RegExp(`(cannot|may not) ${verb} (resource \\\\+")?${resource}`);
}
