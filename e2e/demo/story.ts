/** What the demo does, step by step. Each step throws when what it shows did not happen, and says in rows what was seen. */
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { Lab } from '../lab/lab.ts';

/** A row of the report: what was done and what came back, as it was. */
export interface Row {
  readonly what: string;
  readonly how: string;
  readonly seen: string;
}

/** Context that steps share. */
export interface Story {
  readonly lab: Lab;
  readonly rows: Row[];
  /** Milliseconds from the removal of the backend's manifest to the kernel map of each node. */
  readonly propagation: Map<string, number>;
}

/** Something that the demo promises did not happen. */
export class DemoError extends Error {
  readonly code = 'not-shown';
  readonly retryable = false;

  constructor(message: string) {
    super(message);
    this.name = 'DemoError';
  }
}

/** The machine outside Kubernetes. */
export const MACHINE_NAME = 'vm-1';

const CALLS = 20;
const CALLS_WITHOUT_AGENT = 50;

/** Every agent has read both clusters, and the kernel of both clients' nodes knows both backends. */
export async function waitUntilJoined({ lab }: Story): Promise<void> {
  for (const { name } of lab.plan.nodes) {
    await lab.waitFor(
      `the agent of ${name} to have read every cluster`,
      async () =>
        (await lab.agent(name).status()).clusters.every(({ state }) => state.kind === 'ready'),
      { timeoutMs: 30_000 },
    );
  }
  await lab.waitFor('both backends in the kernel of alpha-1', async () => {
    return (await backendsOf(lab, 'alpha-1', 'alpha')).length === 2;
  });
  await lab.waitFor('the policy in the kernel of beta-2', async () => {
    return (await lab.agent('beta-2').status()).endpoints.some(
      (endpoint) => endpoint.ingressEnforced,
    );
  });
}

/** A global service answers from both clusters, over both families. */
export async function callService({ lab, rows }: Story): Promise<void> {
  for (const family of [4, 6] as const) {
    const url = serviceUrl(lab, family);
    const answers = await callMany(lab, url, CALLS);
    expect(answers.failed === 0, `${answers.failed} of ${CALLS} calls of ${url} failed`);
    for (const pod of ['web-alpha', 'web-beta']) {
      expect(
        answers.byPod.has(pod),
        `no answer of ${url} came from ${pod}, expected both clusters`,
      );
    }
    rows.push({
      what: family === 4 ? 'call a global service by its ClusterIP' : 'the same over IPv6',
      how: `client (alpha): curl ${url}, ${CALLS} times`,
      seen: describe(answers),
    });
  }
}

/** A machine joins by one command, calls a global service, and is called by a pod of the other cluster. */
export async function joinMachine({ lab, rows }: Story): Promise<void> {
  const machine = lab.machine(MACHINE_NAME);
  const token = await machine.createToken();
  const url = serviceUrl(lab, 4);
  const argv = ['curl', '--silent', '--show-error', '--max-time', '1', url];
  const began = systemClock.monotonic();
  const { joinedMs } = await machine.join({ token });
  const answer = await lab.waitFor(
    `an answer of ${url} to the machine`,
    async () => {
      const { code, stdout } = await machine.exec(argv);
      return code === 0 && stdout.trim();
    },
    { intervalMs: 5 },
  );
  const answeredMs = systemClock.monotonic() - began;
  rows.push({
    what: 'a machine joins alpha by one command, and calls the service',
    how: `${machine.name}: echo TOKEN | clustermesh vm join … --token-file -; curl ${url}`,
    seen: `${answer}\nfirst answer ${Math.round(answeredMs)} ms after the command (which took ${Math.round(joinedMs)} ms)`,
  });
  const own = `http://${machine.ip()}:8080/`;
  const called = await lab.waitFor(`an answer of ${own} to a pod of beta`, async () => {
    const { code, stdout } = await call(lab, 'web-beta', own);
    return code === 0 && stdout.trim();
  });
  rows.push({
    what: 'a pod of beta calls the machine',
    how: `web-beta (beta): curl ${own}`,
    seen: called,
  });
}

/** The backend in alpha goes, and every answer comes from beta. */
export async function removeBackend(story: Story): Promise<void> {
  const { lab, rows, propagation } = story;
  const gone = lab.pod('web-alpha').ip();
  const started = systemClock.monotonic();
  // As Kubernetes does: first nobody is sent there any more, then the pod ends.
  const withdrawal = lab.withdrawPod('web-alpha');
  await Promise.all([
    withdrawal,
    ...['alpha-1', 'beta-1'].map(async (node) => {
      const cluster = lab.node(node).cluster;
      await lab.waitFor(
        `the backend ${gone} to leave the kernel of ${node}`,
        async () => !(await backendsOf(lab, node, cluster)).includes(gone),
        { intervalMs: 1 },
      );
      propagation.set(node, systemClock.monotonic() - started);
    }),
  ]);
  await lab.removePod('web-alpha');
  const url = serviceUrl(lab, 4);
  const answers = await callMany(lab, url, CALLS);
  expect(
    answers.failed === 0,
    `${answers.failed} of ${CALLS} calls failed after the backend was removed`,
  );
  expect(
    answers.byPod.get('web-beta') === CALLS,
    `expected every answer from web-beta, got ${describe(answers)}`,
  );
  rows.push({
    what: 'remove the backend in alpha',
    how: `delete pod web-alpha; client: curl ${url}, ${CALLS} times`,
    seen: describe(answers),
  });
}

/** The policy at the destination, in the other cluster, lets one pod in and refuses the other by its identity. */
export async function tryPolicy({ lab, rows }: Story): Promise<void> {
  const url = `http://${lab.pod('vault').ip()}:8080/`;
  const allowed = await call(lab, 'client', url);
  expect(allowed.code === 0, `client could not reach vault: ${allowed.stderr.trim()}`);
  rows.push({
    what: 'policy allows app=client of alpha',
    how: `client (alpha): curl ${url}`,
    seen: allowed.stdout.trim(),
  });
  const before = await lab.agent('beta-2').count('policy-denied');
  const refused = await call(lab, 'stranger', url);
  const denied = (await lab.agent('beta-2').count('policy-denied')) - before;
  expect(refused.code !== 0, `stranger reached vault: ${refused.stdout.trim()}`);
  expect(denied > 0, 'stranger was not answered, but beta-2 counted no packet as denied by policy');
  rows.push({
    what: 'policy refuses app=stranger, at its destination',
    how: `stranger (alpha): curl ${url}`,
    seen: `${refused.stderr.trim()}\nbeta-2 counted ${denied} packets policy-denied`,
  });
}

/** Agents of both ends die, and traffic goes on. */
export async function killAgents({ lab, rows }: Story): Promise<void> {
  await Promise.all(['alpha-1', 'beta-1'].map((node) => lab.agent(node).kill()));
  const url = serviceUrl(lab, 4);
  const answers = await callMany(lab, url, CALLS_WITHOUT_AGENT);
  for (const node of ['alpha-1', 'beta-1']) {
    expect(!lab.agent(node).isRunning(), `the agent of ${node} is running, expected it dead`);
  }
  expect(
    answers.failed === 0,
    `${answers.failed} of ${CALLS_WITHOUT_AGENT} calls failed while agents were dead`,
  );
  rows.push({
    what: 'kill -9 the agents of client and server',
    how: `client (alpha): curl ${url}, ${CALLS_WITHOUT_AGENT} times`,
    seen: describe(answers),
  });
  await Promise.all(['alpha-1', 'beta-1'].map((node) => lab.agent(node).start()));
}

interface Answers {
  readonly byPod: ReadonlyMap<string, number>;
  readonly failed: number;
  readonly example: string;
}

async function callMany(lab: Lab, url: string, times: number): Promise<Answers> {
  const byPod = new Map<string, number>();
  let failed = 0;
  let example = '';
  for (let count = 0; count < times; count += 1) {
    const { code, stdout, stderr } = await call(lab, 'client', url);
    if (code !== 0) {
      failed += 1;
      example = stderr.trim();
      continue;
    }
    const pod = stdout.split(' ')[0] ?? '';
    byPod.set(pod, (byPod.get(pod) ?? 0) + 1);
    if (example === '') example = stdout.trim();
  }
  return { byPod, failed, example };
}

async function call(
  lab: Lab,
  pod: string,
  url: string,
): Promise<{ code: number; stdout: string; stderr: string }> {
  return lab.exec(pod, ['curl', '--silent', '--show-error', '--max-time', '2', url]);
}

/** Backends of the service's HTTP frontend in the kernel of a node. */
async function backendsOf(lab: Lab, node: string, cluster: string): Promise<string[]> {
  const frontend = lab.clusterIp(cluster, 'web');
  const rows = await lab.agent(node).map('services');
  return rows
    .filter((row) => row.address === frontend && row.port === 80)
    .flatMap((row) => row.backends as { address: string }[])
    .map((backend) => backend.address);
}

function serviceUrl(lab: Lab, family: 4 | 6): string {
  const ip = lab.clusterIp('alpha', 'web', family);
  return family === 4 ? `http://${ip}/` : `http://[${ip}]/`;
}

function describe({ byPod, failed, example }: Answers): string {
  const counts = [...byPod].sort().map(([pod, count]) => `${count} x ${pod}`);
  return [...counts, ...(failed > 0 ? [`${failed} failed`] : []), `such as: ${example}`].join('\n');
}

function expect(holds: boolean, otherwise: string): void {
  if (!holds) throw new DemoError(otherwise);
}
