/**
 * What becomes of a packet: what each side's policies say, by which rule, and which way it takes. An agent answers for
 * its own cluster's policies alone: they are published to no other.
 */
import { fixedHostVerdict } from './host-verdict.ts';
import { lookupVerdict } from './map-entries.ts';
import type { Direction } from './rule.ts';
import { judgeSide, type PortQuestion, policyOf, type SideVerdict } from './sources-of-verdict.ts';
import { type VerdictInfo, verdictInfo } from './sources-of-verdict-info.ts';
import { type EndpointView, type PartyInfo, type PolicyView, partyOf } from './trace-view.ts';

/** One packet that is asked about: the first of a flow; replies follow it. */
export interface TraceQuestion extends PortQuestion {
  readonly from: PartyInfo;
  readonly to: PartyInfo;
}

/** What one side says. */
export type SideAnswer =
  | {
      readonly kind: 'known';
      readonly cluster: string;
      /** Agent that answers. */
      readonly node: string;
      /** Whether the side is an endpoint of that node. */
      readonly isLocal: boolean;
      readonly says: VerdictInfo;
      /** The denial is only told: the packet passes. */
      readonly audit: boolean;
      /** What the rows for the kernel say, for an endpoint of the node; undefined: nothing to compare with. */
      readonly kernel: SideVerdict['verdict'] | undefined;
    }
  /** It is no endpoint or node of a cluster: no policy is about it. */
  | { readonly kind: 'outside' }
  /** Another cluster decides. */
  | { readonly kind: 'unknown'; readonly cluster: string };

/** Which way a packet takes from the node that answers. */
export type Route =
  | { readonly kind: 'local'; readonly node: string }
  | { readonly kind: 'overlay'; readonly node: string; readonly tunnelEndpoint: string }
  | { readonly kind: 'native'; readonly node: string }
  | { readonly kind: 'world'; readonly node: string };

/** One agent's answer. */
export interface TraceAnswer {
  readonly cluster: string;
  readonly node: string;
  readonly egress: SideAnswer;
  readonly ingress: SideAnswer;
  /** Undefined: the source is on another node. */
  readonly route: Route | undefined;
}

/** Traces one packet with what one agent knows. */
export function tracePacket(question: TraceQuestion, view: PolicyView): TraceAnswer {
  return {
    cluster: view.cluster,
    node: view.node,
    egress: traceSide('egress', question, view),
    ingress: traceSide('ingress', question, view),
    route: routeOf(question, view),
  };
}

function traceSide(direction: Direction, question: TraceQuestion, view: PolicyView): SideAnswer {
  const [own, other] =
    direction === 'egress' ? [question.from, question.to] : [question.to, question.from];
  if (own.cluster === undefined || own.kind === 'world') return { kind: 'outside' };
  if (own.cluster !== view.cluster) return { kind: 'unknown', cluster: own.cluster };
  const subject = policyOf(partyOf(own), view.policies, view);
  const asked = { ...question, direction, peer: partyOf(other) };
  const fixed = own.kind === 'node' ? fixedHostVerdict(asked, view) : undefined;
  const verdict = fixed ?? judgeSide(subject, asked, view);
  const endpoint = view.endpoints.find(
    ({ addresses }) => own.address !== undefined && addresses.includes(own.address),
  );
  return {
    kind: 'known',
    cluster: view.cluster,
    node: view.node,
    isLocal: endpoint !== undefined || own.node === view.node,
    says: verdictInfo(verdict, view),
    audit: endpoint?.audit === true || view.auditMode,
    kernel:
      endpoint === undefined || other.identity === 0 || fixed !== undefined
        ? undefined
        : rowVerdict(endpoint, { ...question, direction, identity: other.identity }),
  };
}

/** What the rows of an endpoint say, as the kernel reads them. */
function rowVerdict(
  endpoint: EndpointView,
  question: PortQuestion & { readonly direction: Direction; readonly identity: number },
): SideVerdict['verdict'] {
  const found = lookupVerdict(endpoint.rows(), question);
  if (found.kind !== 'none') return found.kind === 'allow' ? 'allowed' : 'denied';
  const isEnforced =
    question.direction === 'ingress' ? endpoint.ingressEnforced : endpoint.egressEnforced;
  return isEnforced ? 'denied' : 'allowed';
}

/** The way to an address, for a source on this node. */
function routeOf({ from, to }: TraceQuestion, view: PolicyView): Route | undefined {
  const isHere =
    from.address !== undefined &&
    (view.nodeIps.includes(from.address) ||
      view.endpoints.some(({ addresses }) => addresses.some((own) => own === from.address)));
  const { address } = to;
  if (!isHere || address === undefined) return undefined;
  const { node } = view;
  const isLocal =
    view.nodeIps.includes(address) ||
    view.endpoints.some(({ addresses }) => addresses.includes(address));
  if (isLocal) return { kind: 'local', node };
  const row = view.addressRow(address);
  if (row === undefined || to.kind === 'world') return { kind: 'world', node };
  if (row.tunnelEndpoint === undefined || view.routingMode === 'native') {
    return { kind: 'native', node };
  }
  return { kind: 'overlay', node, tunnelEndpoint: row.tunnelEndpoint };
}
