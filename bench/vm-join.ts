/**
 * `npm run bench -- vm-join`: from the command that is pasted on a machine to the first answered request of a global service,
 * on the lab's two clusters. Each round is a machine of its own that nobody has heard of.
 */

import { openSettledLab } from '../e2e/lab/settled-lab.ts';
import { parseTopology } from '../e2e/lab/topology.ts';
import { vmTopology } from '../e2e/scenarios/vm-lab.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { type BenchContext, median, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = { rounds: 5 };
const BUDGET_MS = 5000;
const TIMEOUT_MS = 60_000;

/** Times of one machine, in milliseconds from the start of the command. */
interface Round {
  /** `vm join` ended. */
  readonly joined: number;
  /** The agent answered on its socket. */
  readonly agent: number;
  /** The service answered. */
  readonly answer: number;
}

/** Runs the benchmark. Needs root. */
export async function benchVmJoin(context: BenchContext): Promise<void> {
  const { rounds } = parseSizes(context.args, DEFAULTS);
  const names = Array.from({ length: rounds }, (_, index) => `vm-${index + 1}`);
  const { machines: _machines, ...topology } = vmTopology();
  const machines = names.map((name) => ({
    name,
    cluster: 'alpha',
    labels: { app: 'vm' },
    joined: false,
  }));
  await using lab = await openSettledLab(parseTopology({ ...topology, machines }), {
    signal: context.signal,
    onStep: (step) => context.say(step),
  });
  const url = `http://${lab.clusterIp('alpha', 'web')}/`;
  const times: Round[] = [];
  for (const name of names) {
    const machine = lab.machine(name);
    const token = await machine.createToken();
    const began = systemClock.monotonic();
    const { joinedMs, agentMs } = await machine.join({ token });
    await lab.waitFor(
      `an answer of the service to ${name}`,
      async () => (await machine.exec(['curl', '--silent', '--max-time', '1', url])).code === 0,
      { timeoutMs: TIMEOUT_MS, intervalMs: 5 },
    );
    const answer = systemClock.monotonic() - began;
    times.push({ joined: joinedMs, agent: agentMs, answer });
    context.say(
      `${name}: joined after ${Math.round(joinedMs)} ms, agent after ${Math.round(agentMs)} ms, first answer after ${Math.round(answer)} ms`,
    );
    // The next one shall not have to share the machine with it.
    await machine.agent.stop();
  }
  const value = rounded(median(times.map(({ answer }) => answer)));
  context.emit({
    bench: 'vm-join',
    metric: 'from the command to the first answered request of a global service',
    value,
    unit: 'ms',
    budget: '5 s or less',
    met: value <= BUDGET_MS,
    conditions: {
      rounds: times.map(({ answer }) => rounded(answer)),
      joinedMs: rounded(median(times.map(({ joined }) => joined))),
      agentMs: rounded(median(times.map(({ agent }) => agent))),
      clusters: topology.clusters.length,
    },
  });
}
