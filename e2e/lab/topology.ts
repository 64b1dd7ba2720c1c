/** The file that describes a lab, parsed and checked. Addresses are not in it: `plan.ts` works them out. */
import { parse as parseYaml, YAMLParseError } from 'yaml';
import { z } from 'zod';
import { LabError } from './lab-error.ts';

const nameSchema = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?$/, 'expected 1 to 24 of a-z, 0-9 and "-"');
const labelsSchema = z.record(z.string(), z.string());
const protocolSchema = z.enum(['TCP', 'UDP']);
const portNumberSchema = z.int().min(1).max(65_535);

const clusterSchema = z.strictObject({
  name: nameSchema,
  /** Cluster id, 1 to 511. */
  id: z.int().min(1).max(511),
  /** One IPv4 CIDR of /16 or wider and, for pods with IPv6, one IPv6 CIDR of /48 or wider. */
  podCidrs: z.array(z.string()).min(1).max(2),
  /** Where ClusterIPs come from: one CIDR, or one of each family. */
  serviceCidrs: z.array(z.string()).min(1).max(2),
  nodes: z.array(nameSchema).min(1).max(50),
  /** Where its objects are: files that its apiserver watches, or a real Kubernetes API server that kubectl writes to. */
  objects: z.enum(['files', 'kubernetes']).default('files'),
  /**
   * Whether its nodes get their certificates by the tokens of their agents, and hear of their peers from their registry. If not, they
   * have files that were made before. For objects of `kubernetes` alone.
   */
  nodesEnroll: z.boolean().default(false),
  /** How its nodes connect pods; clustermesh-cni comes behind it. */
  cni: z
    .strictObject({
      /** Plugin that makes the interface. */
      plugin: z.enum(['ptp', 'bridge']).default('ptp'),
      /** What pods send out of their node's range leaves with the node's address, and host ports lead to pods (portmap). */
      iptables: z.boolean().default(false),
      /** What becomes of pods that are started while the agent is down. */
      agentDown: z.enum(['wait', 'open']).default('wait'),
      /** How long their start waits for it, as clustermesh-cni reads it. */
      agentDownTimeout: z.string().default('500ms'),
    })
    .prefault({}),
  /** Whether its apiserver makes the Multi-Cluster Services API work; for objects of `kubernetes` alone. */
  mcs: z.boolean().default(false),
  /** Kubernetes namespaces that need labels; those that pods and services name exist anyway. */
  namespaces: z.record(z.string(), labelsSchema).default({}),
});

const podSchema = z.strictObject({
  name: nameSchema,
  node: nameSchema,
  namespace: z.string().default('default'),
  labels: labelsSchema.default({}),
  serviceAccount: z.string().default('default'),
  /** Whether clustermesh-cni is told of it; if not, it is as a pod that was there before the mesh. */
  chained: z.boolean().default(true),
  /** `server`: the lab's echo server runs in it, on every port below. `client`: nothing does. */
  role: z.enum(['server', 'client']).default('client'),
  ports: z
    .array(
      z.strictObject({
        name: z.string().default(''),
        port: portNumberSchema,
        /** Port of the node that leads to it; needs `cni.iptables` of its cluster. */
        hostPort: portNumberSchema.optional(),
        protocol: protocolSchema.default('TCP'),
      }),
    )
    .default([]),
});

const machineSchema = z.strictObject({
  name: nameSchema,
  /** Cluster that it joins. */
  cluster: nameSchema,
  namespace: z.string().default('default'),
  labels: labelsSchema.default({}),
  /** Families of its underlay addresses. */
  family: z.enum(['dual', 'ipv4', 'ipv6']).default('dual'),
  /** Whether it joins when the lab is built. If not, a test lets it. */
  joined: z.boolean().default(true),
  /** `server`: the lab's echo server runs in it, on every port below. `client`: nothing does. */
  role: z.enum(['server', 'client']).default('client'),
  ports: z
    .array(z.strictObject({ port: portNumberSchema, protocol: protocolSchema.default('TCP') }))
    .default([]),
});

const serviceSchema = z.strictObject({
  name: nameSchema,
  namespace: z.string().default('default'),
  /** Clusters that have it. Default: all. */
  clusters: z.array(nameSchema).optional(),
  selector: labelsSchema,
  annotations: labelsSchema.default({}),
  ports: z
    .array(
      z.strictObject({
        name: z.string().default(''),
        port: portNumberSchema,
        targetPort: portNumberSchema,
        protocol: protocolSchema.default('TCP'),
      }),
    )
    .min(1),
});

const manifestSchema = z.strictObject({
  cluster: nameSchema,
  /** A Kubernetes object as a user would apply it. */
  object: z.looseObject({
    apiVersion: z.string(),
    kind: z.string(),
    metadata: z.looseObject({ name: z.string() }),
  }),
});

const topologySchema = z.strictObject({
  clusters: z.array(clusterSchema).min(1).max(20),
  pods: z.array(podSchema).default([]),
  machines: z.array(machineSchema).default([]),
  services: z.array(serviceSchema).default([]),
  manifests: z.array(manifestSchema).default([]),
});

export type Topology = z.infer<typeof topologySchema>;
export type ClusterTopology = z.infer<typeof clusterSchema>;
export type PodTopology = z.infer<typeof podSchema>;
export type MachineTopology = z.infer<typeof machineSchema>;
export type ServiceTopology = z.infer<typeof serviceSchema>;
/** A pod as a caller may give it: what has a default may be left out. */
export type PodInput = z.input<typeof podSchema>;
/** A topology as a caller may give it. */
export type TopologyInput = z.input<typeof topologySchema>;

/** Parses the text of a topology file. Throws LabError `topology` naming `source` and every field that is wrong. */
export function parseTopologyText(text: string, source: string): Topology {
  let value: unknown;
  try {
    value = parseYaml(text);
  } catch (cause) {
    const reason = cause instanceof YAMLParseError ? cause.message.split('\n')[0] : String(cause);
    throw new LabError('topology', `cannot parse ${source}: ${reason}`, { cause });
  }
  return parseTopology(value, source);
}

/** Checks a topology. Throws LabError `topology`. */
export function parseTopology(value: unknown, source = 'topology'): Topology {
  const topology = checked(topologySchema, value, source);
  const problems = [
    ...repeated(
      'cluster name',
      topology.clusters.map((cluster) => cluster.name),
    ),
    ...repeated(
      'cluster id',
      topology.clusters.map((cluster) => String(cluster.id)),
    ),
    ...repeated(
      'node',
      topology.clusters.flatMap((cluster) => cluster.nodes),
    ),
    ...repeated(
      'pod',
      topology.pods.map((pod) => pod.name),
    ),
    ...repeated(
      'machine',
      topology.machines.map((machine) => machine.name),
    ),
    ...unknownNames(topology),
    ...topology.clusters
      .filter(({ mcs, objects }) => mcs && objects !== 'kubernetes')
      .map(({ name }) => `cluster ${name}: mcs needs objects: kubernetes`),
    ...topology.clusters
      .filter(({ nodesEnroll, objects }) => nodesEnroll && objects !== 'kubernetes')
      .map(({ name }) => `cluster ${name}: nodesEnroll needs objects: kubernetes`),
  ];
  if (problems.length > 0) {
    throw new LabError('topology', `cannot use ${source}: ${problems.join('; ')}`);
  }
  return topology;
}

/** Checks one pod that is added to a running lab. */
export function parsePod(value: PodInput): PodTopology {
  return checked(podSchema, value, 'pod');
}

function checked<T>(schema: z.ZodType<T>, value: unknown, source: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => {
    const path = issue.path.map(String).join('.');
    return `${path === '' ? 'the whole' : path}: ${issue.message}`;
  });
  throw new LabError('topology', `cannot use ${source}: ${problems.join('; ')}`, {
    cause: result.error,
  });
}

function repeated(what: string, names: readonly string[]): string[] {
  const twice = names.filter((name, index) => names.indexOf(name) !== index);
  return [...new Set(twice)].map((name) => `${what} ${name} is there twice, expected once`);
}

function unknownNames(topology: Topology): string[] {
  const clusters = topology.clusters.map((cluster) => cluster.name);
  const nodes = topology.clusters.flatMap((cluster) => cluster.nodes);
  return [
    ...topology.pods
      .filter((pod) => !nodes.includes(pod.node))
      .map((pod) => `pod ${pod.name}: no node is named ${pod.node}`),
    ...topology.machines
      .filter((machine) => !clusters.includes(machine.cluster))
      .map((machine) => `machine ${machine.name}: no cluster is named ${machine.cluster}`),
    ...topology.services.flatMap((service) =>
      (service.clusters ?? [])
        .filter((cluster) => !clusters.includes(cluster))
        .map((cluster) => `service ${service.name}: no cluster is named ${cluster}`),
    ),
    ...topology.manifests
      .filter((manifest) => !clusters.includes(manifest.cluster))
      .map((manifest) => `manifest: no cluster is named ${manifest.cluster}`),
  ];
}
