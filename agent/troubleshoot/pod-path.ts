/** Whether a pod of this node reaches one of a peer, by an echo or by a connection to a port. */
import { type Problem, problemOf } from '../../mesh/diagnosis/problem.ts';
import type { StepResult } from '../../mesh/diagnosis/step-list.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { portText } from '../policy/trace-port.ts';
import type { Echo } from './echo.ts';
import type { Pair } from './policy-path.ts';
import { type CallTcp, NOBODY_CALLS, TCP_WORDS } from './tcp-call.ts';

const TCP = 6;
const ECHO_PROTOCOLS: readonly number[] = [1, 58];

/** Who can send packets from here. */
export interface LocalEnd {
  /** `namespace/name`, or what it is. */
  readonly name: string;
  readonly address: IpAddress;
  /** Path of its network namespace; undefined: that of the node. */
  readonly netns: string | undefined;
}

/** What an attempt needs. */
export interface PodPathOptions {
  readonly peer: string;
  readonly pair: Pair;
  /** The sender, on this node. */
  readonly sender: LocalEnd;
  /** Why policies of this cluster deny it; undefined: they do not. */
  readonly denial: Problem | undefined;
  readonly echo: Echo;
  readonly call: CallTcp;
  readonly signal: AbortSignal;
}

/** Sends what the pair is about. */
export async function tryPair(options: PodPathOptions): Promise<StepResult> {
  const { peer, pair, sender, denial, echo, call, signal } = options;
  const { address } = pair.to;
  const { netns } = sender;
  if (address === undefined) return { seen: ['the other end has no address'], isSkipped: true };
  const what = `${address} ${portText(pair)}`;
  let said: string;
  if (ECHO_PROTOCOLS.includes(pair.protocol)) {
    const outcome = await echo(address, { ...(netns === undefined ? {} : { netns }), signal });
    if (outcome === 'no-program') return { seen: [NOBODY_CALLS], isSkipped: true };
    said = outcome === 'answered' ? TCP_WORDS.accepted : TCP_WORDS.silent;
  } else if (pair.protocol === TCP) {
    const outcomes = await call([{ address, port: pair.port }], { netns, signal });
    if (outcomes === 'no-program') return { seen: [NOBODY_CALLS], isSkipped: true };
    said = TCP_WORDS[outcomes[0] ?? 'silent'];
  } else {
    return { seen: ['only TCP and echoes are tried'], isSkipped: true };
  }
  const seen = [`${sender.name} asks ${what}: it ${said}`];
  // Who refuses has been reached.
  if (said !== TCP_WORDS.silent) return { seen };
  if (denial !== undefined) return { seen, problem: denial };
  const problem = problemOf('pod-silent', {
    subject: `traffic from ${sender.name} to ${what}`,
    cause: `nothing comes back to ${sender.name} from ${what}, and policies here allow it: those of cluster ${peer} may forbid it, or nobody is there`,
    values: { from: sender.address, to: address, port: portText(pair) },
  });
  return { seen, problem: pair.isAsked ? problem : { ...problem, severity: 'warning' } };
}
