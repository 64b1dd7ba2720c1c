/** The path of packets from this node to a peer, all of it: nodes, tunnel, size, pods, a Service, and what policies say at both ends. */
import type { DiagnosedPair, DiagnosisStep } from '../../mesh/diagnosis/diagnosis.ts';
import { createStepList } from '../../mesh/diagnosis/step-list.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import type { EndpointRecord } from '../endpoints/record.ts';
import type { PortQuestion } from '../policy/sources-of-verdict.ts';
import { parseParty, resolveParty } from '../policy/trace-party.ts';
import { protocolOf } from '../policy/trace-port.ts';
import type { PartyInfo, PolicyView } from '../policy/trace-view.ts';
import type { Probe } from '../withdrawal/probe.ts';
import type { Echo } from './echo.ts';
import { followPackets } from './packet-path.ts';
import { type LocalEnd, tryPair } from './pod-path.ts';
import { findDenial, judgePair, type Pair } from './policy-path.ts';
import {
  callService,
  followService,
  type ServicePathSources,
  type ServiceTarget,
} from './service-path.ts';
import type { CallTcp } from './tcp-call.ts';

/** All of it ends in time for the 15 s that people are promised. */
const BUDGET_MS = 12_000;
/** Type of an ICMP echo request, by family. */
const ECHO_REQUEST: Readonly<Record<4 | 6, PortQuestion>> = {
  4: { protocol: 1, port: 8 },
  6: { protocol: 58, port: 128 },
};

/** What somebody asks for by name; what is not named is picked. */
export interface PathQuestion {
  /** `namespace/name` of a Service. */
  readonly service: string | undefined;
  /** The end that sends first, in words that `parseParty` knows. */
  readonly from: string | undefined;
  readonly to: string | undefined;
  /** Between the two; undefined: an echo. */
  readonly port: PortQuestion | undefined;
}

/** What the look is made of. */
export interface DataPathSources extends ServicePathSources {
  readonly nodesOf: (clusterId: number) => readonly IpAddress[];
  /** What the kernel knows of addresses. */
  readonly rows: () => Iterable<IpcacheEntry>;
  readonly records: () => readonly EndpointRecord[];
  readonly view: () => PolicyView;
  readonly probe: Probe;
  readonly echo: Echo;
  readonly call: CallTcp;
  readonly clock: Clock;
}

/** What was found. */
export interface DataPathFindings {
  readonly steps: readonly DiagnosisStep[];
  /** Whose policies were judged; undefined: there is nobody at one of the two ends. */
  readonly pair: DiagnosedPair | undefined;
}

/** Looks at the path of packets to one peer. Rejects when `signal` aborts, and with TraceError for words that mean nothing. */
export type FollowDataPath = (
  peer: string,
  options: {
    readonly clusterId: number | undefined;
    /** Largest packet that fits into the tunnel; undefined: nothing is tunnelled. */
    readonly mtu: number | undefined;
    readonly question: PathQuestion;
    readonly signal: AbortSignal;
  },
) => Promise<DataPathFindings>;

/** Makes such a look. */
export function createDataPath(sources: DataPathSources): FollowDataPath {
  const { nodesOf, records, view, echo, call, clock } = sources;
  return async (peer, { clusterId, mtu, question, signal: caller }) => {
    const signal = AbortSignal.any([caller, AbortSignal.timeout(BUDGET_MS)]);
    const asked = findAsked(peer, question, view());
    const list = createStepList(clock);
    const nodes = clusterId === undefined ? [] : nodesOf(clusterId);
    const pod = await followPackets(list, { ...sources, peer, clusterId, nodes, mtu, signal });

    const sender = senderOf(records(), asked);
    const pair =
      asked.pair ?? (asked.why === '' ? examplePair(sender, pod?.pod, view()) : undefined);
    const why = asked.why || 'no pod of this node and none of it are known';
    await list.next('pod', () => {
      if (pair === undefined) return { seen: [why], isSkipped: true };
      if (sender === undefined || sender.address !== pair.from.address) {
        return { seen: ['the first packet goes from there: try it there'], isSkipped: true };
      }
      const denial = findDenial(pair, view());
      return tryPair({ peer, pair, sender, denial, echo, call, signal });
    });

    const wanted = question.service;
    const target = await followService(list, { ...sources, peer, clusterId, wanted });
    const ofService = servicePair(sender, target, view());
    const denial = ofService === undefined ? undefined : findDenial(ofService, view());
    const [nodeAddress] = view().nodeIps;
    const from =
      sender ?? (nodeAddress && { name: 'this node', address: nodeAddress, netns: undefined });
    if (asked.why !== '' || from === undefined) {
      await list.next('call', () => ({ seen: [why], isSkipped: true }));
    } else {
      await callService(list, { peer, target, caller: from, denial, call, signal });
    }

    const judged = asked.pair ?? ofService ?? pair;
    if (judged === undefined) {
      await list.always('policy', () => ({ seen: [why], isSkipped: true }));
    }
    const words =
      judged === undefined
        ? undefined
        : await judgePair(list, { peer, pair: judged, view: view() });
    caller.throwIfAborted();
    return { steps: list.steps, pair: words };
  };
}

/** Whom a question names; `why`: what is wrong with them, empty where nothing is, or nothing was asked. */
interface Asked {
  readonly pair: Pair | undefined;
  /** The named sender. */
  readonly from: PartyInfo | undefined;
  readonly why: string;
}

/** Throws TraceError for words that mean nothing. */
function findAsked(peer: string, question: PathQuestion, view: PolicyView): Asked {
  const { from: fromText, to: toText, port } = question;
  if (fromText === undefined) return { pair: undefined, from: undefined, why: '' };
  const from = findParty(fromText, view);
  if (typeof from === 'string') return { pair: undefined, from: undefined, why: from };
  if (toText === undefined) {
    const isHere = from.cluster === view.cluster && from.node === view.node;
    const why = isHere ? '' : `${fromText} is not on this node: ask its own agent`;
    return { pair: undefined, from, why };
  }
  const to = findParty(toText, view);
  if (typeof to === 'string') return { pair: undefined, from, why: to };
  const clusters = [from.cluster, to.cluster];
  if (!clusters.includes(view.cluster) || !clusters.includes(peer)) {
    const why = `${fromText} and ${toText} are not one here and one of cluster ${peer}`;
    return { pair: undefined, from, why };
  }
  const asked = port ?? ECHO_REQUEST[to.address === undefined ? 4 : ipFamily(to.address)];
  return { pair: { ...asked, from, to, isAsked: true }, from, why: '' };
}

/** The one that words mean, or why there is none. */
function findParty(text: string, view: PolicyView): PartyInfo | string {
  const { parties, frontends } = resolveParty(parseParty(text), view);
  const [party] = parties;
  if (party !== undefined) return party;
  return frontends.length > 0
    ? `${text} is a Service: ask for it by --service`
    : `this agent knows nobody called ${text}: pods of other nodes are found by their addresses`;
}

/** Who sends: whom the question names, else any pod of this node. */
function senderOf(records: readonly EndpointRecord[], { from, why }: Asked): LocalEnd | undefined {
  if (why !== '') return undefined;
  const pods = records.filter(({ netns }) => netns !== '');
  for (const { podNamespace, podName, addresses, netns } of pods) {
    const address = addresses.find((own) => from === undefined || own === from.address);
    if (address !== undefined) return { name: `${podNamespace}/${podName}`, address, netns };
  }
  return undefined;
}

function examplePair(
  sender: LocalEnd | undefined,
  address: IpAddress | undefined,
  view: PolicyView,
): Pair | undefined {
  if (sender === undefined || address === undefined) return undefined;
  return pairOf(sender, { address, ...ECHO_REQUEST[ipFamily(address)] }, { view, isAsked: false });
}

function servicePair(
  sender: LocalEnd | undefined,
  target: ServiceTarget | undefined,
  view: PolicyView,
): Pair | undefined {
  const [backend] = target?.backends ?? [];
  if (sender === undefined || target === undefined || backend === undefined) return undefined;
  const { address, port } = backend;
  const protocol = protocolOf(backend.protocol) ?? 0;
  return pairOf(sender, { address, port, protocol }, { view, isAsked: target.isAsked });
}

function pairOf(
  sender: LocalEnd,
  { address, ...port }: PortQuestion & { readonly address: IpAddress },
  { view, isAsked }: { readonly view: PolicyView; readonly isAsked: boolean },
): Pair | undefined {
  const [from] = resolveParty({ kind: 'address', address: sender.address }, view).parties;
  const [to] = resolveParty({ kind: 'address', address }, view).parties;
  return from === undefined || to === undefined ? undefined : { ...port, from, to, isAsked };
}
