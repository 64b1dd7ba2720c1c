/**
 * A brute-force oracle for policies: it reads manifests as the documentation of Kubernetes and Cilium says they are meant, one
 * question at a time, and shares no code with the parser and the compiler, which it is there to check.
 */

import {
  type CiliumRuleManifest,
  isCiliumPeer,
  isKubernetesPeer,
  isPrefix,
  isWithinPrefix,
  type KubernetesPeerManifest,
  meetsRequirements,
  type OracleContext,
  type OracleParty,
} from './oracle-peers.ts';
import { isIcmp, isPort, type OracleFlow, type PortManifest } from './oracle-ports.ts';
import { isOfNamespace, type SelectorManifest, selects } from './oracle-selector.ts';

/** A question: may this flow pass by what the policies say about the subject? */
export interface OracleQuestion extends OracleFlow {
  /** `ingress`: the subject is the flow's destination. */
  readonly direction: 'ingress' | 'egress';
  readonly subject: OracleParty;
  readonly peer: OracleParty;
}

interface PolicyManifest {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly spec?: object;
  readonly specs?: readonly object[];
}

interface NetworkPolicySpec {
  readonly podSelector?: SelectorManifest;
  readonly policyTypes?: readonly string[];
  readonly ingress?: readonly KubernetesRuleManifest[] | null;
  readonly egress?: readonly KubernetesRuleManifest[] | null;
}

interface KubernetesRuleManifest {
  readonly from?: readonly KubernetesPeerManifest[];
  readonly to?: readonly KubernetesPeerManifest[];
  readonly ports?: readonly PortManifest[];
}

interface CiliumSpec {
  readonly endpointSelector?: SelectorManifest;
  readonly nodeSelector?: SelectorManifest;
  readonly enableDefaultDeny?: { readonly ingress?: boolean; readonly egress?: boolean };
  readonly ingress?: readonly CiliumRuleManifest[] | null;
  readonly ingressDeny?: readonly CiliumRuleManifest[] | null;
  readonly egress?: readonly CiliumRuleManifest[] | null;
  readonly egressDeny?: readonly CiliumRuleManifest[] | null;
}

/** What one spec of a Cilium policy says about one direction. */
interface CiliumRules {
  readonly at: OracleContext & { readonly namespace: string | undefined };
  readonly allowing: readonly CiliumRuleManifest[];
  readonly denying: readonly CiliumRuleManifest[];
  readonly deniesByDefault: boolean | undefined;
}

/** What one policy says to a question. */
interface Opinion {
  readonly allows: boolean;
  readonly denies: boolean;
  /** What no policy allows is denied. */
  readonly deniesByDefault: boolean;
}

/** The verdict of all policies of a cluster together: any deny, then any allow, then the default. */
export function oracleVerdict(
  policies: readonly unknown[],
  context: OracleContext,
  question: OracleQuestion,
): 'allow' | 'deny' {
  // A policy object is what its author wrote: its kind says how to read it.
  const manifests = policies as readonly PolicyManifest[];
  const specs = ciliumSpecs(manifests, context, question);
  // What rules require of peers holds for those that any rule about the same subject selects by labels.
  const requirements = {
    allow: specs.every(({ at, allowing }) => areMet(allowing, question, at)),
    deny: specs.every(({ at, denying }) => areMet(denying, question, at)),
  };
  const opinions = [
    ...manifests.flatMap((manifest) =>
      kubernetesOpinion(manifest, question, {
        ...context,
        meetsAllRequirements: requirements.allow,
      }),
    ),
    ...specs.map(({ at, allowing, denying, deniesByDefault }) => ({
      allows: allowing.some((rule) =>
        ciliumRuleMatches(rule, question, { ...at, meetsAllRequirements: requirements.allow }),
      ),
      denies: denying.some((rule) =>
        ciliumRuleMatches(rule, question, { ...at, meetsAllRequirements: requirements.deny }),
      ),
      deniesByDefault: deniesByDefault ?? allowing.length + denying.length > 0,
    })),
  ];
  if (opinions.some(({ denies }) => denies)) return 'deny';
  if (opinions.some(({ allows }) => allows)) return 'allow';
  return opinions.some(({ deniesByDefault }) => deniesByDefault) ? 'deny' : 'allow';
}

function kubernetesOpinion(
  manifest: PolicyManifest,
  question: OracleQuestion,
  context: OracleContext & { readonly meetsAllRequirements: boolean },
): Opinion[] {
  if (manifest.kind !== 'NetworkPolicy' || question.subject.kind !== 'pod') return [];
  const spec = (manifest.spec ?? {}) as NetworkPolicySpec;
  const namespace = manifest.metadata.namespace ?? 'default';
  if (!isOfNamespace(question.subject.labels, namespace)) return [];
  if (!selects(spec.podSelector ?? {}, question.subject.labels)) return [];
  const { direction } = question;
  const types = spec.policyTypes?.length
    ? spec.policyTypes
    : ['Ingress', ...(spec.egress?.length ? ['Egress'] : [])];
  if (!types.includes(direction === 'ingress' ? 'Ingress' : 'Egress')) return [];
  const allows = (spec[direction] ?? []).some((rule) => {
    const peers = (direction === 'ingress' ? rule.from : rule.to) ?? [];
    const named = namedPortsOf(question);
    return (
      (peers.length === 0 ||
        peers.some((peer) => isKubernetesPeer(peer, question.peer, { ...context, namespace }))) &&
      (!rule.ports?.length ||
        rule.ports.some((port) => isPort(port, question, { byDefault: 'TCP', named })))
    );
  });
  return [{ allows, denies: false, deniesByDefault: true }];
}

/** Specs of Cilium's policies about the subject, with their rules of the direction asked for. */
function ciliumSpecs(
  manifests: readonly PolicyManifest[],
  context: OracleContext,
  { direction, subject }: OracleQuestion,
): CiliumRules[] {
  const specs = manifests.flatMap(({ kind, metadata, spec, specs }) => {
    if (kind !== 'CiliumNetworkPolicy' && kind !== 'CiliumClusterwideNetworkPolicy') return [];
    const namespace =
      kind === 'CiliumNetworkPolicy' ? (metadata.namespace ?? 'default') : undefined;
    return [...(spec ? [spec] : []), ...(specs ?? [])]
      .map((each) => ({ namespace, spec: each as CiliumSpec }))
      .filter((each) => isSubject(each, subject));
  });
  return specs.map(({ namespace, spec }) => ({
    at: { ...context, namespace },
    allowing: spec[direction] ?? [],
    denying: (direction === 'ingress' ? spec.ingressDeny : spec.egressDeny) ?? [],
    deniesByDefault: spec.enableDefaultDeny?.[direction],
  }));
}

function areMet(
  rules: readonly CiliumRuleManifest[],
  { direction, peer }: OracleQuestion,
  at: CiliumRules['at'],
): boolean {
  return rules.every((rule) => meetsRequirements(rule, peer, { ...at, direction }));
}

function isSubject(
  { spec, namespace }: { spec: CiliumSpec; namespace: string | undefined },
  subject: OracleParty,
): boolean {
  switch (subject.kind) {
    case 'node':
      return spec.nodeSelector !== undefined && selects(spec.nodeSelector, subject.labels);
    case 'pod': {
      if (spec.endpointSelector === undefined) return false;
      if (namespace !== undefined && !isOfNamespace(subject.labels, namespace)) return false;
      return selects(spec.endpointSelector, subject.labels);
    }
    case 'reserved':
    case 'address':
      throw new Error(`no policy is about ${subject.kind}`);
    default:
      return subject satisfies never;
  }
}

function ciliumRuleMatches(
  rule: CiliumRuleManifest,
  question: OracleQuestion,
  at: CiliumRules['at'] & { readonly meetsAllRequirements: boolean },
): boolean {
  if (isRefused(rule)) return false;
  const hasPorts = (rule.toPorts ?? []).length > 0 || (rule.icmps ?? []).length > 0;
  const { direction } = question;
  const peer = isCiliumPeer(rule, question.peer, { ...at, direction });
  // A rule with neither peers nor ports says nothing, it only begins the default deny.
  if (peer === 'not said') {
    if (!hasPorts) return false;
  } else if (peer === 'no') return false;
  if (!hasPorts) return true;
  const named = namedPortsOf(question);
  return (
    (rule.toPorts ?? [])
      .flatMap(({ ports }) => ports ?? [])
      .some((port) => isPort(port, question, { byDefault: 'ANY', named })) ||
    (rule.icmps ?? []).some((icmp) => isIcmp(icmp, question))
  );
}

function namedPortsOf({ direction, subject, peer }: OracleQuestion) {
  const destination = direction === 'ingress' ? subject : peer;
  return destination.kind === 'pod' ? destination.ports : {};
}

/** Whether a rule is not supported, or cannot be meant as it stands: then it opens nothing. */
function isRefused(rule: CiliumRuleManifest): boolean {
  const { fromRequires, toRequires, toPorts = [], icmps = [], ...peers } = rule;
  const kinds = Object.entries(peers).filter(
    ([field, list]) => /^(from|to)/.test(field) && Array.isArray(list) && list.length > 0,
  );
  return (
    kinds.length > 1 ||
    (toPorts.length > 0 && icmps.length > 0) ||
    rule.toFQDNs !== undefined ||
    rule.authentication !== undefined ||
    toPorts.some(({ rules, serverNames }) => rules !== undefined || serverNames !== undefined) ||
    [...(rule.fromCIDR ?? []), ...(rule.toCIDR ?? [])].some((cidr) => !isPrefix(cidr)) ||
    [...(rule.fromCIDRSet ?? []), ...(rule.toCIDRSet ?? [])].some(
      ({ cidr, except = [] }) =>
        cidr !== undefined && !except.every((prefix) => isWithinPrefix(prefix, cidr)),
    )
  );
}
