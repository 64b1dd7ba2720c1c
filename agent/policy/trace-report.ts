/** Answers of several agents about one packet put together: each knows its own cluster's policies alone. */

import type { Route, SideAnswer, TraceAnswer, TraceQuestion } from './trace.ts';
import { portText } from './trace-port.ts';

/** A side as nobody who was asked knows it. */
interface UnknownSide {
  readonly kind: 'unknown';
  readonly cluster: string;
  /** What to run, and where. */
  readonly advice: string;
}

/** One packet, as all who were asked know it. */
export interface TraceReport {
  readonly from: TraceQuestion['from'];
  readonly to: TraceQuestion['to'];
  /** `80/TCP`: of the backend, where the packet was sent to a Service. */
  readonly port: string;
  /** Frontend that it was sent to. */
  readonly service: string | undefined;
  readonly egress: Exclude<SideAnswer, { kind: 'unknown' }> | UnknownSide;
  readonly ingress: Exclude<SideAnswer, { kind: 'unknown' }> | UnknownSide;
  readonly route: Route | undefined;
  /** `audited`: it would be denied, and passes because audit mode is on. */
  readonly verdict: 'allowed' | 'denied' | 'audited' | 'unknown';
  /** What does not fit together, a sentence each. */
  readonly problems: readonly string[];
}

/** Puts together what agents say. `words`: how to ask the same again, from `--from` on. */
export function reportTrace(
  question: TraceQuestion & { readonly service: string | undefined },
  answers: readonly TraceAnswer[],
  { words }: { readonly words: string },
): TraceReport {
  const egress = bestSide(
    answers.map((answer) => answer.egress),
    words,
  );
  const ingress = bestSide(
    answers.map((answer) => answer.ingress),
    words,
  );
  return {
    from: question.from,
    to: question.to,
    port: portText(question),
    service: question.service,
    egress,
    ingress,
    route: answers.find(({ route }) => route !== undefined)?.route,
    verdict: together([egress, ingress]),
    problems: [egress, ingress].flatMap(sideProblems),
  };
}

/** The agent of the node where the side is knows more than another one of its cluster. */
function bestSide(sides: readonly SideAnswer[], words: string): TraceReport['egress'] {
  const known = sides.filter((side) => side.kind === 'known');
  const best = known.find(({ isLocal }) => isLocal) ?? known[0];
  if (best !== undefined) return best;
  const other = sides.find((side) => side.kind === 'unknown');
  if (other === undefined) return { kind: 'outside' };
  return {
    ...other,
    advice: `policies of cluster ${other.cluster} are known to its own agents alone: run \`clustermesh policy trace ${words}\` on one of its nodes, or add --socket-path of its agent here`,
  };
}

function together(sides: readonly TraceReport['egress'][]): TraceReport['verdict'] {
  const known = sides.filter((side) => side.kind === 'known');
  const denying = known.filter(({ says }) => says.verdict === 'denied');
  if (denying.some(({ audit }) => !audit)) return 'denied';
  if (sides.some(({ kind }) => kind === 'unknown')) return 'unknown';
  return denying.length > 0 ? 'audited' : 'allowed';
}

function sideProblems(side: TraceReport['egress']): string[] {
  if (side.kind !== 'known' || side.kernel === undefined || side.kernel === side.says.verdict) {
    return [];
  }
  return [
    `the rows of node ${side.node} say ${side.kernel} where its policies say ${side.says.verdict}: they may be being written, ask again; if it stays, \`clustermesh status\` names what cannot be written`,
  ];
}
