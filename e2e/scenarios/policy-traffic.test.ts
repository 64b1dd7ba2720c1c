/** The corpus of policies with real packets: its cases marked `kernel`, over two clusters and both families. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import {
  type CorpusCase,
  type CorpusFlow,
  identityLabels,
  LAB_ENDPOINTS,
  parseCorpus,
  parseWorld,
} from '../../agent/policy/testing/corpus.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import { labSkipReason } from '../lab/preflight.ts';
import {
  openPolicyLab,
  type PolicyDrop,
  type PolicyLab,
  type Side,
  topologyOf,
  worldObjects,
} from './policy-lab.ts';
import type { ProbeProtocol } from './policy-prober.ts';
import { openTraces, traceVerdict } from './policy-traces.ts';

const skip = labSkipReason(process.env);
const FOLDER = 'agent/policy/testdata/corpus';
const SIDES: readonly Side[] = ['alpha', 'beta'];
const PODS: readonly string[] = LAB_ENDPOINTS;
/** Fewest cases that have to run here. */
const LEAST_CASES = 40;
/** One case in so many runs each time, beginning with this one; in long runs all do. */
const STRIDE = process.env.ISTHMUS_LONG === 'true' ? 1 : 3;
const first = Number(process.env.ISTHMUS_SEED ?? Math.floor(Math.random() * 3)) % STRIDE;

type Verdict = 'allow' | 'deny egress' | 'deny ingress';

/** A line of a table in one family. */
interface Line {
  readonly flow: CorpusFlow;
  readonly family: 4 | 6;
  readonly expected: Verdict;
}

const read = (name: string): string => readFileSync(projectPath(join(FOLDER, name)), 'utf8');
const world = parseWorld(read('world.yaml'));
const cases = readdirSync(projectPath(FOLDER))
  .filter((name) => name.endsWith('.yaml') && name !== 'world.yaml')
  .sort()
  .flatMap((name) => parseCorpus(read(name), world))
  .filter(({ kernel, defaultLocalCluster, services }) => {
    // Another --policy-default-local-cluster would need other agents.
    return kernel && defaultLocalCluster && services.length === 0;
  })
  .filter((_, index) => index % STRIDE === first);

test('the corpus of policies, with packets', { skip, timeout: 600_000 }, async (t) => {
  const lines = cases.flatMap((one) => linesOf(one));
  await using policyLab = await openPolicyLab(topologyOf(world, PODS));
  await Promise.all(PODS.map((pod) => serve(policyLab, pod, lines)));
  const traces = await openTraces(policyLab.lab, AbortSignal.timeout(300_000));
  t.comment(`every case of ${STRIDE} from ISTHMUS_SEED=${first} on`);
  t.ok(cases.length >= LEAST_CASES, `${cases.length} cases with packets`);
  for (const [index, one] of cases.entries()) {
    await apply(policyLab, one, index);
    const wrong = await judgeAll(policyLab, linesOf(one));
    t.strictSame(wrong, [], `${one.name} (${one.page})`);
    // Of either family a trace says the same.
    const once = linesOf(one).filter(({ flow, family }) => family === 4 || flow.protocol === 58);
    const told = await traceAll(policyLab, traces, once);
    t.strictSame(told, [], `${one.name}: what the trace says`);
  }
});

/** Lines with packets: those between pods of the lab, in the families that their protocol has. */
function linesOf({ flows }: CorpusCase): Line[] {
  return flows.flatMap((flow) => {
    if (!PODS.includes(flow.from) || !PODS.includes(flow.to) || flow.from === flow.to) return [];
    const expected: Verdict =
      flow.egress === 'deny' ? 'deny egress' : flow.ingress === 'deny' ? 'deny ingress' : 'allow';
    return familiesOf(flow).map((family) => ({ flow, family, expected }));
  });
}

function familiesOf({ protocol, port }: CorpusFlow): readonly (4 | 6)[] {
  if (protocol === 1) return port === 8 ? [4] : [];
  if (protocol === 58) return port === 128 ? [6] : [];
  return protocol === 6 || protocol === 17 ? [4, 6] : [];
}

function probeProtocol({ protocol }: CorpusFlow): ProbeProtocol | undefined {
  return protocol === 6 ? 'tcp' : protocol === 17 ? 'udp' : undefined;
}

/** Listens on every port that some line calls at a pod. */
async function serve(policyLab: PolicyLab, pod: string, lines: readonly Line[]): Promise<void> {
  for (const protocol of ['tcp', 'udp'] as const) {
    const ports = lines
      .filter(({ flow }) => flow.to === pod && probeProtocol(flow) === protocol)
      .map(({ flow }) => flow.port);
    await policyLab.prober(pod).listen(protocol, [...new Set(ports)]);
  }
}

/** Puts a case in place, and waits until every agent has read its policies, labels and addresses. */
async function apply(policyLab: PolicyLab, one: CorpusCase, index: number): Promise<void> {
  const { lab } = policyLab;
  const named = new Map<Side, string[]>();
  for (const side of SIDES) {
    const policies = one.policies[side].map((manifest) => unique(manifest, index));
    named.set(
      side,
      policies
        .filter(isPolicy)
        .map(({ metadata }) => metadata.name)
        .sort(),
    );
    await policyLab.setObjects(side, [...worldObjects(lab, side, one.world), ...policies]);
  }
  await lab.waitFor(`the agents to have "${one.name}"`, async () => {
    const identities = new Map<string, number>();
    for (const node of lab.plan.nodes) {
      const status = await lab.agent(node.name).status();
      const policies = status.policies.map(({ policy }) => policy.split(/[ /]/).at(-1)).sort();
      if (policies.join() !== named.get(node.cluster === 'alpha' ? 'alpha' : 'beta')?.join()) {
        return false;
      }
      for (const endpoint of status.endpoints) {
        const pod = endpoint.pod.split('/')[1] ?? '';
        const labels = identityLabels(one.world, pod).map(
          ({ source, key, value }) => `${source}:${key}=${value}`,
        );
        if (labels.join() !== [...endpoint.labels].sort().join()) return false;
        for (const address of endpoint.addresses) identities.set(address, endpoint.identity);
      }
    }
    for (const node of lab.plan.nodes) {
      const rows = await lab.agent(node.name).map('ipcache');
      for (const row of rows) {
        const identity = identities.get(String(row.prefix).split('/')[0] ?? '');
        if (identity !== undefined && row.identity !== identity) return false;
      }
    }
    return identities.size === 2 * PODS.length;
  });
}

/** Nobody refers to a policy by its name, so each case has its own: an old one cannot be taken for a new one. */
function unique(manifest: unknown, index: number): KubernetesObject {
  const object = manifest as KubernetesObject;
  if (!isPolicy(object)) return object;
  return { ...object, metadata: { ...object.metadata, name: `${object.metadata.name}-${index}` } };
}

function isPolicy({ kind }: KubernetesObject): boolean {
  return kind.endsWith('NetworkPolicy');
}

/** Every line at once; those that are not as expected yet are tried again, and at the end all of them once more. */
async function judgeAll(policyLab: PolicyLab, lines: readonly Line[]): Promise<string[]> {
  let left = lines;
  await policyLab.lab
    .waitFor(
      'the verdicts',
      async () => {
        const found = await Promise.all(left.map((line) => judge(policyLab, line)));
        left = left.filter((line, index) => found[index] !== line.expected);
        return left.length === 0;
      },
      { timeoutMs: 10_000 },
    )
    // What is wrong is said below.
    .catch(() => undefined);
  const found = await Promise.all(lines.map((line) => judge(policyLab, line)));
  return lines.flatMap((line, index) => {
    const { flow, family, expected } = line;
    if (found[index] === expected) return [];
    return [`${flow.from} ${flow.to} ${flow.flow} IPv${family}: ${found[index]}, not ${expected}`];
  });
}

/** What a trace of each line says, where that is something else than what becomes of the packet. */
async function traceAll(
  { lab }: PolicyLab,
  traces: Parameters<typeof traceVerdict>[0],
  lines: readonly Line[],
): Promise<string[]> {
  const told = await Promise.all(
    lines.map(({ flow, family }) =>
      traceVerdict(traces, {
        source: lab.pod(flow.from).ip(family),
        destination: lab.pod(flow.to).ip(family),
        ...flow,
      }),
    ),
  );
  return lines.flatMap(({ flow, family, expected }, index) =>
    told[index] === expected
      ? []
      : [`${flow.from} ${flow.to} ${flow.flow} IPv${family}: ${told[index]}, not ${expected}`],
  );
}

let lastPort = 20_000;

/** Sends the first packet of a flow: its answer says "allow", a drop that an agent tells of says where it was denied. */
async function judge(policyLab: PolicyLab, { flow, family }: Line): Promise<Verdict | 'nothing'> {
  const { lab } = policyLab;
  const source = lab.pod(flow.from).ip(family);
  const destination = lab.pod(flow.to).ip(family);
  const protocol = probeProtocol(flow);
  lastPort = lastPort < 60_000 ? lastPort + 1 : 20_001;
  const localPort = lastPort;
  const ending = new AbortController();
  const isOurs = (drop: PolicyDrop): boolean =>
    drop.source === source &&
    drop.destination === destination &&
    (protocol === undefined ? drop.isIcmp : drop.sourcePort === localPort);
  let told: (verdict: Verdict) => void = () => undefined;
  const denied = new Promise<Verdict>((resolve) => {
    told = resolve;
  });
  using _drops = policyLab.onDrop((drop) => {
    if (isOurs(drop)) told(`deny ${drop.direction}`);
  });
  const verdictOf = (answered: boolean): Verdict | 'nothing' => (answered ? 'allow' : 'nothing');
  const given = new Promise<'nothing'>((resolve) => {
    const patience = AbortSignal.timeout(8000);
    patience.addEventListener('abort', () => resolve('nothing'), { once: true });
  });
  if (protocol === undefined) {
    const argv = ['ping', '-n', '-c', '1', '-W', '2', destination];
    const pinged = lab.exec(flow.from, argv, { signal: ending.signal }).then(
      ({ code }) => verdictOf(code === 0),
      () => 'nothing' as const,
    );
    const verdict = await Promise.race([denied, pinged, given]);
    ending.abort();
    await pinged;
    return verdict;
  }
  const target = { protocol, address: destination, port: flow.port, localPort };
  const call = policyLab.prober(flow.from).call(target);
  const verdict = await Promise.race([denied, call.answered.then(verdictOf), given]);
  await call.end();
  return verdict;
}
