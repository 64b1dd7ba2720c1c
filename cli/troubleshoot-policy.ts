/** What a peer's policies decide, where agents of that cluster are asked, too. */
import { judgeSide, PEER_POLICY_STEP, withPeerPolicy } from '../agent/policy/side-finding.ts';
import { type Diagnosis, verdictOf } from '../mesh/diagnosis/diagnosis.ts';
import type { PolicyAgents } from './policy-agents.ts';
import { findEverywhere, traceAcross } from './policy-trace.ts';

/** Address of the pod that words mean: its name is known to the agent of its own node alone. Words that nobody knows stay as they are. */
export async function findAddress(agents: PolicyAgents, text: string): Promise<string> {
  const [party] = await findEverywhere(agents, text);
  return party?.address ?? text;
}

/** Asks the agents of the peer what their policies decide about the pair that was judged; without one, the step stays skipped. */
export async function addPeerPolicy(
  diagnosis: Diagnosis,
  agents: PolicyAgents,
): Promise<Diagnosis> {
  const { peer, pair, steps } = diagnosis;
  const isOpen = steps.some(({ step }) => step === PEER_POLICY_STEP);
  if (pair === undefined || !isOpen || !agents.names.some(({ cluster }) => cluster === peer)) {
    return diagnosis;
  }
  const [report] = (await traceAcross(agents, pair)).reports;
  for (const direction of ['egress', 'ingress'] as const) {
    const side = report?.[direction];
    if (side?.kind !== 'known' || side.cluster !== peer) continue;
    const more = withPeerPolicy(steps, judgeSide(pair, { direction, side }));
    return { ...diagnosis, steps: more, verdict: verdictOf(peer, more) };
  }
  return diagnosis;
}
