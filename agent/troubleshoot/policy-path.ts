/**
 * What policies decide about traffic between an endpoint here and one of a peer, at both ends. Policies are published to no other
 * cluster: an agent knows its own side, and the other one says so.
 */
import type { DiagnosedPair } from '../../mesh/diagnosis/diagnosis.ts';
import type { Problem } from '../../mesh/diagnosis/problem.ts';
import type { StepList } from '../../mesh/diagnosis/step-list.ts';
import { judgeSide, PEER_POLICY_STEP, sideProblem } from '../policy/side-finding.ts';
import type { PortQuestion } from '../policy/sources-of-verdict.ts';
import { type SideAnswer, tracePacket } from '../policy/trace.ts';
import { portText } from '../policy/trace-port.ts';
import type { PartyInfo, PolicyView } from '../policy/trace-view.ts';

/** Traffic between two endpoints, one of which is the peer's: its first packet goes from `from` to `to`. */
export interface Pair extends PortQuestion {
  readonly from: PartyInfo;
  readonly to: PartyInfo;
  /** Somebody named it; else it is an example, about which policies may well say no. */
  readonly isAsked: boolean;
}

/** Why this cluster's own policies deny the traffic; undefined: they do not. */
export function findDenial(pair: Pair, view: PolicyView): Problem | undefined {
  const side = ownSide(pair, view);
  return sideProblem(wordsOf(pair), { direction: ownDirection(pair, view), side });
}

/** Adds the steps `policy` and `peer-policy`. */
export async function judgePair(
  list: StepList,
  options: { readonly peer: string; readonly pair: Pair; readonly view: PolicyView },
): Promise<DiagnosedPair> {
  const { peer, pair, view } = options;
  const words = wordsOf(pair);
  const direction = ownDirection(pair, view);
  await list.always('policy', () => {
    const { seen, problem } = judgeSide(words, { direction, side: ownSide(pair, view) });
    // Who has seen its packets fail has said it already.
    const isKnown = list.steps.some((step) => step.problem?.cause === problem?.cause);
    return { seen, problem: isKnown ? undefined : problem };
  });
  const there = direction === 'egress' ? 'ingress' : 'egress';
  await list.always(PEER_POLICY_STEP, () => ({
    seen: [
      `what cluster ${peer} decides about ${there} is known to its own agents alone: run \`${traceCommand(words)}\` on one of its nodes, or give --socket-path of one of them, too`,
    ],
    isSkipped: true,
  }));
  return words;
}

function ownDirection({ from }: Pair, view: PolicyView): 'ingress' | 'egress' {
  return from.cluster === view.cluster ? 'egress' : 'ingress';
}

function ownSide(pair: Pair, view: PolicyView): SideAnswer {
  return tracePacket(pair, view)[ownDirection(pair, view)];
}

/** As `policy trace` understands it on any node: names of pods are known to their own node alone. */
function wordsOf(pair: Pair): DiagnosedPair {
  const word = ({ address, identity }: PartyInfo): string => address ?? `identity:${identity}`;
  const { from, to, isAsked } = pair;
  return { from: word(from), to: word(to), port: portText(pair), isAsked };
}

function traceCommand({ from, to, port }: DiagnosedPair): string {
  return `clustermesh policy trace --from ${from} --to ${to} --port ${port}`;
}
