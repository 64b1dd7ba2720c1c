/** Whether a backend gets connections on this node, and why not: by the same rules that choose, in their order, in words. */
import type { BackendPlace } from '../../mesh/wire/backend-place.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { ClusterService, L4Port } from '../../mesh/wire/service.ts';
import type { Backend, FrontendEntry } from '../datapath/desired.ts';
import type { BackendRank } from './backend-choice.ts';
import type { ServiceNode, ServiceRules } from './service-rules.ts';

/** What is known of a Service of one name: the inputs of its frontends, and these. */
export interface ServiceFacts {
  readonly node: ServiceNode;
  readonly rules: ServiceRules;
  /** The own cluster's; undefined: it has none of that name. */
  readonly local: LocalService | undefined;
  /** What peers say of it, without backends that do not count. */
  readonly remotes: readonly ClusterService[];
  /** Its frontends on this node, and who has the address of each where that is another Service. */
  readonly frontends: readonly {
    readonly row: FrontendEntry;
    readonly heldBy: string | undefined;
  }[];
  readonly rankOf: (clusterId: number) => BackendRank;
}

/**
 * `used`: gets new connections; `draining`: keeps those it has; `standby`: is used when those before it are gone; `unused`:
 * not until something is changed.
 */
export type BackendState = 'used' | 'draining' | 'standby' | 'unused';

/** A backend as its cluster offers it, for one port of the Service. */
export interface OfferedBackend {
  readonly clusterId: number;
  readonly address: IpAddress;
  /** Name of the Service's port; empty for one without. */
  readonly portName: string;
  readonly target: L4Port;
}

/** A judgement: `reason` is empty for a backend that is used without reserve. */
export interface BackendJudgement {
  readonly state: BackendState;
  readonly reason: string;
}

/** Why no address of a Service is translated on this node; empty: they are. */
export function whyNotTranslated({ local, rules, frontends }: ServiceFacts): string {
  if (local === undefined) {
    return 'this cluster has no Service of this name: make one, and what other clusters offer is used';
  }
  if (local.headless) return 'it is headless: clients take addresses from DNS';
  if (local.type === 'ExternalName') return 'it is an ExternalName: a name in DNS, no address';
  if (rules.services === 'global' && !local.global) {
    return 'it is not global: this node leaves it to kube-proxy';
  }
  if (frontends.length === 0) return 'it has no address or no port';
  const [first] = frontends;
  return frontends.every(({ heldBy }) => heldBy !== undefined)
    ? `its addresses are held by Service ${first?.heldBy}`
    : '';
}

/**
 * Judges a backend by the frontends that are wanted; only why it is in none of them follows from the rules. `useReason`:
 * why the backends of its cluster are not used like others, as its status says.
 */
export function judgeBackend(
  offered: OfferedBackend,
  facts: ServiceFacts,
  { cluster, useReason }: { readonly cluster: string; readonly useReason: string },
): BackendJudgement {
  const { local, node } = facts;
  const notTranslated = whyNotTranslated(facts);
  if (local === undefined || notTranslated !== '') return unused(notTranslated);
  const isOwn = offered.clusterId === node.clusterId;
  const offer = facts.remotes.find(({ clusterId }) => clusterId === offered.clusterId);
  if (!isOwn && !local.global) {
    return unused(
      'the Service of this cluster is not global: annotate it with service.cilium.io/global: "true"',
    );
  }
  if (offer?.shared === false) {
    return unused(`cluster ${cluster} does not share it: its service.cilium.io/shared is "false"`);
  }
  const { portName, target } = offered;
  const port = local.ports.find(
    ({ name, protocol }) => name === portName && protocol === target.protocol,
  );
  if (port === undefined) {
    const said = portName === '' ? 'port without a name' : `port named ${portName}`;
    return unused(`the Service of this cluster has no ${said} of protocol ${target.protocol}`);
  }
  const rows = facts.frontends.filter(
    ({ row, heldBy }) =>
      heldBy === undefined &&
      row.protocol === port.protocol &&
      (row.port === port.port || row.port === port.nodePort) &&
      ipFamily(row.address) === ipFamily(offered.address),
  );
  if (rows.length === 0) {
    return unused(`the Service has no IPv${ipFamily(offered.address)} address on this node`);
  }
  return placed(offered, rows, facts) ?? notChosen(offered, facts, { cluster, useReason });
}

/** What frontends have it, and as what; undefined: none has it. */
function placed(
  offered: OfferedBackend,
  rows: ServiceFacts['frontends'],
  { rankOf, local }: ServiceFacts,
): BackendJudgement | undefined {
  const isIn = (backends: readonly Backend[]): boolean =>
    backends.some(
      ({ address, port, clusterId }) =>
        address === offered.address &&
        port === offered.target.port &&
        clusterId === offered.clusterId,
    );
  const using = rows.filter(({ row }) => isIn(row.backends));
  if (using.length > 0) {
    const isInside = using.some(({ row }) => row.scope === 'internal');
    if (!isInside) return { state: 'used', reason: 'for calls from outside the node only' };
    if (rankOf(offered.clusterId) !== 'active') {
      return { state: 'used', reason: 'as the last resort: no better backend is there' };
    }
    const isEnding = local?.draining.has(offered.address) === true;
    return {
      state: 'used',
      reason: isEnding ? 'it is about to end, and no other backend is there' : '',
    };
  }
  return rows.some(({ row }) => isIn(row.draining))
    ? { state: 'draining', reason: 'it is about to end: it keeps its connections, new ones go on' }
    : undefined;
}

/** The rules of `backend-choice.ts`, in their order. */
function notChosen(
  { clusterId, address }: OfferedBackend,
  { local, node, rankOf, rules }: ServiceFacts,
  { cluster, useReason }: { readonly cluster: string; readonly useReason: string },
): BackendJudgement {
  const because = useReason === '' ? '' : `: ${useReason}`;
  const rank = rankOf(clusterId);
  switch (rank) {
    case 'active':
      break;
    case 'last':
      return standby(`cluster ${cluster} is used last${because}`);
    case 'spare':
      return standby(`cluster ${cluster} is withdrawn, used when nothing else is left${because}`);
    case 'never':
      return unused(`cluster ${cluster} is withdrawn${because}`);
    default:
      return rank satisfies never;
  }
  const isOwn = clusterId === node.clusterId;
  const policy = local?.internalTrafficPolicy;
  if (policy === 'Local' && !rules.kubeProxyReplacement) {
    return unused('internalTrafficPolicy is Local, and it does not run on this node');
  }
  if (local?.affinity === 'local' && !isOwn) {
    return standby('affinity is local: used when the own cluster has no backend that is ready');
  }
  if (local?.affinity === 'remote' && isOwn) {
    return standby('affinity is remote: used when no other cluster has a backend');
  }
  if (policy === 'Local') return unused('a traffic policy is Local, and it is not on this node');
  if (local?.draining.has(address) === true) return unused('it is about to end');
  return standby('topology: backends nearer to this node are there');
}

/** Where a backend runs, as far as anybody says. */
export function placeOfBackend(
  { clusterId, address }: Pick<OfferedBackend, 'clusterId' | 'address'>,
  { local, remotes, node }: Pick<ServiceFacts, 'local' | 'remotes' | 'node'>,
): Pick<BackendPlace, 'node' | 'zone'> {
  if (clusterId === node.clusterId) {
    return local?.places.get(address) ?? { node: '', zone: '' };
  }
  const record = remotes.find((remote) => remote.clusterId === clusterId);
  return { node: '', zone: record?.zones?.get(address)?.zone ?? '' };
}

function unused(reason: string): BackendJudgement {
  return { state: 'unused', reason };
}

function standby(reason: string): BackendJudgement {
  return { state: 'standby', reason };
}
