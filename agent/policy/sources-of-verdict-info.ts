/** Verdicts with where each rule was written, as plain data for whoever prints them. */
import type { PolicyOrigin } from '../../mesh/wire/local-policy.ts';
import { policyName } from './compile.ts';
import type { ParsedPolicy, Rule } from './rule.ts';
import type { NearMiss, SideVerdict } from './sources-of-verdict.ts';
import { ruleText } from './sources-of-verdict-text.ts';

/** A rule with where it stands. */
export interface RuleInfo {
  /** `CiliumNetworkPolicy demo/web`. */
  readonly policy: string;
  /** Part of the manifest: `spec.ingress[0]`. */
  readonly path: string;
  /** Name of the file it was read from; undefined: it came from Kubernetes. */
  readonly file: string | undefined;
  /** Counted from 1. */
  readonly line: number | undefined;
  readonly verdict: Rule['verdict'];
  /** What it says: `from app=web (namespace demo) to 80/TCP`. */
  readonly text: string;
}

/** What of a policy says where it was written. */
export interface OriginSource {
  originOf(policy: ParsedPolicy): PolicyOrigin | undefined;
}

/** Tells a rule. */
export function ruleInfo(
  { policy, rule }: { readonly policy: ParsedPolicy; readonly rule: Rule },
  { originOf }: OriginSource,
): RuleInfo {
  const origin = originOf(policy);
  return {
    policy: policyName(policy),
    path: rule.path,
    file: origin?.file,
    line: origin === undefined ? undefined : lineOf(origin, rule.path),
    verdict: rule.verdict,
    text: ruleText(rule),
  };
}

/** Line of a part of a manifest, or of the nearest part around it whose line is known. */
export function lineOf(origin: PolicyOrigin, path: string): number | undefined {
  for (let at = path; at !== ''; at = at.replace(/(\.[^.[\]]*|\[[^[\]]*\]|^[^.[\]]*)$/, '')) {
    const line = origin.lines[at];
    if (line !== undefined) return line;
  }
  return undefined;
}

/** A verdict of one side. */
export interface VerdictInfo {
  readonly verdict: SideVerdict['verdict'];
  readonly because: SideVerdict['because'];
  /** Rules that decided. */
  readonly rules: readonly RuleInfo[];
  /** Policies that close the direction. */
  readonly policies: readonly string[];
  /** Rules that nearly apply, where one is missing. */
  readonly nearMisses: readonly (RuleInfo & { readonly misses: NearMiss['because'] })[];
}

/** Tells a verdict. */
export function verdictInfo(verdict: SideVerdict, origins: OriginSource): VerdictInfo {
  const says = { verdict: verdict.verdict, because: verdict.because };
  const nothing = { rules: [], policies: [], nearMisses: [] };
  switch (verdict.because) {
    case 'not-enforced':
    case 'mode-never':
    case 'own-node':
    case 'not-of-mesh':
    case 'always-open':
      return { ...says, ...nothing };
    case 'rule':
      return { ...says, ...nothing, rules: verdict.rules.map((rule) => ruleInfo(rule, origins)) };
    case 'isolated':
      return { ...says, ...nothing, policies: verdict.policies.map(policyName) };
    case 'no-rule':
    case 'mode-always':
      return {
        ...says,
        ...nothing,
        policies: verdict.policies.map(policyName),
        nearMisses: verdict.nearMisses.map((near) => ({
          ...ruleInfo(near, origins),
          misses: near.because,
        })),
      };
    default:
      return verdict satisfies never;
  }
}

/** Why a verdict is what it is, in a few words. */
export function verdictReason(says: VerdictInfo): string {
  switch (says.because) {
    case 'not-enforced':
      return 'no policy closes this direction';
    case 'mode-never':
      return 'policies are switched off (--enable-policy never)';
    case 'own-node':
      return 'a pod is always reached by its own node';
    case 'not-of-mesh':
      return 'policies of nodes are not about what is outside of the mesh';
    case 'always-open':
      return 'by this port nodes stay a part of their mesh: no policy closes it';
    case 'rule':
      return says.verdict === 'allowed' ? 'a rule allows it' : 'a rule denies it';
    case 'isolated':
      return `closed until it can be read: ${says.policies.join(', ')}`;
    case 'mode-always':
      return 'no policy allows it (--enable-policy always)';
    case 'no-rule':
      return `no rule allows it; closed by ${says.policies.join(', ')}`;
    default:
      return says.because satisfies never;
  }
}
