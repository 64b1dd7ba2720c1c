/** What `clustermesh policy list` and `get` show, as plain data. */
import type { PolicyEntry } from '../datapath/desired.ts';
import { policyName, type SourcedRule, selectsEndpoint } from './compile.ts';
import type { EnforcementMode } from './enforcement-mode.ts';
import type { ParsedPolicy, PolicyProblem } from './rule.ts';
import { type RuleInfo, ruleInfo } from './sources-of-verdict-info.ts';
import { rangeText } from './sources-of-verdict-text.ts';
import { type EndpointView, labelTexts, type PolicyView } from './trace-view.ts';

/** A policy on one node. */
export interface PolicyListEntry {
  /** `CiliumNetworkPolicy demo/web`. */
  readonly policy: string;
  readonly generation: number;
  /** `partly-refused`: something of it is not enforced as written. */
  readonly state: 'enforced' | 'partly-refused';
  /** Name of the file it was read from; undefined: it came from Kubernetes. */
  readonly file: string | undefined;
  /** Endpoints of the node that it selects, as pods or, without a name, numbers. */
  readonly endpoints: readonly string[];
  /** Rows for the kernel that its rules made, alone or with others. */
  readonly entries: number;
  readonly problems: readonly PolicyProblem[];
}

/** The policies of one node. */
export interface PolicyListAnswer {
  readonly cluster: string;
  readonly node: string;
  readonly mode: EnforcementMode;
  /** What would be denied passes and is told, on the whole node. */
  readonly auditMode: boolean;
  readonly policies: readonly PolicyListEntry[];
}

/** A row for the kernel and where it comes from. */
export interface EntryInfo {
  readonly direction: PolicyEntry['direction'];
  /** Of the other side; 0: anybody. */
  readonly identity: number;
  readonly labels: readonly string[];
  readonly cluster: string | undefined;
  /** `80/TCP`; undefined: every port. */
  readonly port: string | undefined;
  readonly verdict: PolicyEntry['verdict'];
  /** Rules that made it. None: it is what is left open beside denies. */
  readonly rules: readonly RuleInfo[];
}

/** One endpoint with its rows. */
export interface EndpointAnswer {
  readonly cluster: string;
  readonly node: string;
  readonly endpointId: number;
  readonly pod: string;
  readonly addresses: readonly string[];
  readonly identity: number;
  readonly labels: readonly string[];
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
  readonly audit: boolean;
  readonly policies: readonly string[];
  readonly entries: readonly EntryInfo[];
}

/** Gathers the policies of a node. */
export function listPolicies(view: PolicyView): PolicyListAnswer {
  const entries = view.entriesOf();
  return {
    cluster: view.cluster,
    node: view.node,
    mode: view.mode,
    auditMode: view.auditMode,
    policies: view.policies.map((policy) => ({
      policy: policyName(policy),
      generation: policy.generation,
      state: policy.problems.length === 0 ? 'enforced' : 'partly-refused',
      file: view.originOf(policy)?.file,
      endpoints: view.endpoints.filter((endpoint) => isSelected(policy, endpoint)).map(nameOf),
      entries: entries.get(policy) ?? 0,
      problems: policy.problems,
    })),
  };
}

/** Gathers what policies say about an endpoint of the node. */
export function explainEndpoint(endpoint: EndpointView, view: PolicyView): EndpointAnswer {
  return {
    cluster: view.cluster,
    node: view.node,
    endpointId: endpoint.endpointId,
    pod: endpoint.pod,
    addresses: endpoint.addresses,
    identity: endpoint.identity,
    labels: labelTexts(endpoint.labels ?? []),
    ingressEnforced: endpoint.ingressEnforced,
    egressEnforced: endpoint.egressEnforced,
    audit: endpoint.audit,
    policies: view.policies.filter((policy) => isSelected(policy, endpoint)).map(policyName),
    entries: [...endpoint.rows()]
      .sort((a, b) => a.direction.localeCompare(b.direction) || a.identity - b.identity)
      .map((row) => entryInfo(row, endpoint.rulesOf(row), view)),
  };
}

function entryInfo(row: PolicyEntry, rules: readonly SourcedRule[], view: PolicyView): EntryInfo {
  const clusterId = view.clusterIdOf(row.identity);
  return {
    direction: row.direction,
    identity: row.identity,
    labels: labelTexts(view.labelsOf(row.identity) ?? []),
    cluster: clusterId === 0 ? undefined : view.clusterName(clusterId),
    port: portsOf(row),
    verdict: row.verdict,
    rules: rules.map((rule) => ruleInfo(rule, view)),
  };
}

function portsOf({ protocol, port, portPrefixBits }: PolicyEntry): string | undefined {
  if (protocol === 0) return undefined;
  return rangeText({ protocol, first: port, last: port + 2 ** (16 - portPrefixBits) - 1 });
}

function isSelected(policy: ParsedPolicy, { labels, host }: EndpointView): boolean {
  const kind = host === 'node' ? 'nodes' : 'pods';
  return labels !== undefined && selectsEndpoint(policy.clauses, { kind, labels });
}

/** `namespace/name` of the pod, or the number of the endpoint. */
function nameOf({ pod, endpointId }: EndpointView): string {
  return pod === '' ? String(endpointId) : pod;
}
