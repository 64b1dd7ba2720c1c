/** What the policy scenarios share: two clusters with the pods of the corpus, a prober in each, and every drop as it is told. */
import { followEvents } from '../../agent/api/monitor-client.ts';
import type { CorpusWorld } from '../../agent/policy/testing/corpus.ts';
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import { namespaceObject, podObject } from '../lab/kubernetes-object.ts';
import type { Lab, LabOptions } from '../lab/lab.ts';
import type { NodePlan } from '../lab/plan.ts';
import { openSettledLab } from '../lab/settled-lab.ts';
import { parseTopology, type TopologyInput } from '../lab/topology.ts';
import { type Prober, startProber } from './policy-probes.ts';

/** Clusters of the corpus. */
export type Side = 'alpha' | 'beta';

/** Packet that was dropped by policy. */
export interface PolicyDrop {
  readonly direction: 'ingress' | 'egress';
  readonly source: string;
  readonly destination: string;
  /** Undefined: its protocol has none. */
  readonly sourcePort: number | undefined;
  readonly isIcmp: boolean;
}

/** A lab with its probers. */
export interface PolicyLab extends AsyncDisposable {
  readonly lab: Lab;
  prober(pod: string): Prober;
  /** Calls `listener` with every packet that policy drops, from now on; disposing ends it. */
  onDrop(listener: (drop: PolicyDrop) => void): Disposable;
  /** Makes a cluster's objects these, and takes away those of an earlier call that are not among them. */
  setObjects(side: Side, objects: readonly KubernetesObject[]): Promise<void>;
}

const POLICY_REASONS = ['policy-denied', 'policy-deny-rule'];

/** The pods of a world, those of a cluster on its only node. */
export function topologyOf(world: CorpusWorld, names: readonly string[]): TopologyInput {
  const cluster = (name: Side, id: number) => ({
    name,
    id,
    podCidrs: [`10.${id}.0.0/16`, `fd00:10:${id}::/48`],
    serviceCidrs: [`10.10${id}.0.0/16`, `fd00:10${id}::/112`],
    nodes: [`${name}-1`],
    namespaces: world.namespaces,
  });
  return {
    clusters: [cluster('alpha', 1), cluster('beta', 2)],
    pods: names.map((name) => {
      const endpoint = world.endpoints[name];
      if (endpoint === undefined) throw new Error(`the corpus has no endpoint ${name}`);
      return {
        name,
        node: `${endpoint.cluster}-1`,
        namespace: endpoint.namespace,
        labels: endpoint.labels,
        serviceAccount: endpoint.serviceAccount,
        ports: Object.entries(endpoint.ports).map(([portName, port]) => portOf(portName, port)),
      };
    }),
  };
}

function portOf(name: string, text: string) {
  const [protocol, port] = text.split('/');
  return { name, port: Number(port), protocol: protocol === 'UDP' ? 'UDP' : 'TCP' } as const;
}

/** Objects of a cluster as a world has them: namespaces, and its pods with their labels and named ports. */
export function worldObjects(lab: Lab, side: Side, world: CorpusWorld): KubernetesObject[] {
  const namespaces = Object.entries(world.namespaces).map(([name, labels]) =>
    namespaceObject(name, labels),
  );
  const pods = lab
    .pods()
    .filter(({ cluster }) => cluster === side)
    .map((pod) => {
      const { labels = {}, ports = {} } = world.endpoints[pod.name] ?? {};
      const named = Object.entries(ports).map(([name, port]) => ({
        ...portOf(name, port),
        hostPort: undefined,
      }));
      const node: NodePlan = lab.node(pod.node);
      return podObject({ ...pod, labels, ports: named }, { ips: pod.ips, node, ready: true });
    });
  return [...namespaces, ...pods];
}

/** Builds the lab and starts a prober in every pod. Throws LabError, and leaves nothing then. */
export async function openPolicyLab(
  topology: TopologyInput,
  options: LabOptions = {},
): Promise<PolicyLab> {
  const lab = await openSettledLab(parseTopology(topology), options);
  const leaving = new AbortController();
  const probers = new Map<string, Prober>();
  const listeners = new Set<(drop: PolicyDrop) => void>();
  const following: Promise<void>[] = [];
  const written: Record<Side, ReadonlyMap<string, KubernetesObject>> = {
    alpha: new Map(),
    beta: new Map(),
  };
  const dispose = async (): Promise<void> => {
    leaving.abort();
    await Promise.allSettled(following);
    for (const prober of probers.values()) await prober[Symbol.asyncDispose]();
    await lab[Symbol.asyncDispose]();
  };
  try {
    await Promise.all(
      lab.pods().map(async ({ name }) => probers.set(name, await startProber(lab, name))),
    );
    for (const node of lab.plan.nodes) {
      let isStarted = false;
      following.push(
        follow(node, leaving.signal, (drop) => {
          isStarted = true;
          if (drop !== undefined) for (const listener of listeners) listener(drop);
        }),
      );
      await lab.waitFor(`events of ${node.name}`, () => isStarted);
    }
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    lab,
    prober(pod) {
      const found = probers.get(pod);
      if (found === undefined) throw new Error(`pod ${pod} has no prober`);
      return found;
    },
    onDrop(listener) {
      listeners.add(listener);
      return {
        [Symbol.dispose]() {
          listeners.delete(listener);
        },
      };
    },
    async setObjects(side, objects) {
      const { manifests } = lab.apiserver(side);
      const wanted = new Map(objects.map((object) => [keyOf(object), object]));
      for (const [key, object] of wanted) {
        const before = written[side].get(key);
        if (JSON.stringify(before) !== JSON.stringify(object)) await manifests.write(object);
      }
      for (const [key, object] of written[side]) {
        if (!wanted.has(key)) await manifests.remove(object);
      }
      written[side] = wanted;
    },
    [Symbol.asyncDispose]: dispose,
  };
}

/** Tells policy's drops of a node, and once `undefined` when it listens. Begins anew when the agent has left. */
async function follow(
  { socketPath }: NodePlan,
  signal: AbortSignal,
  tell: (drop: PolicyDrop | undefined) => void,
): Promise<void> {
  while (!signal.aborted) {
    try {
      for await (const { event } of followEvents(
        socketPath,
        new URLSearchParams({ kind: 'drop' }),
        signal,
      )) {
        if (event.kind === 'start') tell(undefined);
        if (event.kind !== 'drop' || !POLICY_REASONS.includes(event.reason)) continue;
        tell({
          direction: event.direction,
          source: event.source.address ?? '',
          destination: event.destination.address ?? '',
          sourcePort: event.source.port,
          isIcmp: event.icmp !== undefined,
        });
      }
    } catch {
      // An agent that was killed is back soon.
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

function keyOf({ kind, metadata }: KubernetesObject): string {
  return `${kind} ${metadata.namespace ?? ''} ${metadata.name}`;
}
