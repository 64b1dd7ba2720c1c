/** What kubelets, controllers and users would write to a cluster's API server: what the apiserver reads. */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { ipFamily } from '../../mesh/wire/ip.ts';
import type { ClusterPlan, NodePlan, PodPlan, ServicePlan } from './plan.ts';

/** A Kubernetes object. */
export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly [field: string]: unknown;
  };
  readonly [field: string]: unknown;
}

/** Name of the file that holds an object. */
export function manifestFile(object: KubernetesObject): string {
  const { namespace, name } = object.metadata;
  const parts = [object.kind.toLowerCase(), ...(namespace === undefined ? [] : [namespace]), name];
  return `${parts.join('_')}.yaml`;
}

/** What a cluster has before its first pod: nodes, namespaces, services, and the topology's own manifests. */
export function clusterObjects(cluster: ClusterPlan, pods: readonly PodPlan[]): KubernetesObject[] {
  const names = new Set([
    'default',
    ...Object.keys(cluster.namespaces),
    ...cluster.services.map((service) => service.namespace),
    ...pods.filter((pod) => pod.cluster === cluster.name).map((pod) => pod.namespace),
  ]);
  return [
    ...cluster.nodes.map(nodeObject),
    ...[...names].map((name) => namespaceObject(name, cluster.namespaces[name] ?? {})),
    ...cluster.services.map(serviceObject),
  ];
}

function nodeObject(node: NodePlan): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: node.name, labels: { 'kubernetes.io/hostname': node.name } },
    spec: { podCIDR: node.podCidrs[0], podCIDRs: node.podCidrs },
    status: {
      addresses: [
        ...node.addresses.map((address) => ({ type: 'InternalIP', address })),
        { type: 'Hostname', address: node.name },
      ],
    },
  };
}

/** A namespace; Kubernetes itself gives it the label with its name. */
export function namespaceObject(
  name: string,
  labels: Readonly<Record<string, string>>,
): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name, labels: { 'kubernetes.io/metadata.name': name, ...labels } },
  };
}

function serviceObject(service: ServicePlan): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name: service.name,
      namespace: service.namespace,
      annotations: service.annotations,
    },
    spec: {
      type: 'ClusterIP',
      clusterIP: service.clusterIps[0],
      clusterIPs: service.clusterIps,
      ipFamilyPolicy: service.clusterIps.length > 1 ? 'RequireDualStack' : 'SingleStack',
      ipFamilies: service.clusterIps.map((ip) => `IPv${ipFamily(ip)}`),
      selector: service.selector,
      ports: service.ports.map(({ name, ...port }) => ({
        ...port,
        ...(name === '' ? {} : { name }),
      })),
    },
  };
}

/** A running pod as the kubelet reports it. `ready` is its readiness probe's opinion. */
export function podObject(
  pod: PodPlan,
  options: { readonly ips: readonly IpAddress[]; readonly node: NodePlan; readonly ready: boolean },
): KubernetesObject {
  const { ips, node, ready } = options;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: pod.name, namespace: pod.namespace, labels: pod.labels },
    spec: {
      nodeName: node.name,
      serviceAccountName: pod.serviceAccount,
      containers: [
        {
          name: 'main',
          image: 'isthmus.example/lab',
          ports: pod.ports.map(({ name, port, protocol }) => ({
            containerPort: port,
            protocol,
            ...(name === '' ? {} : { name }),
          })),
        },
      ],
    },
    status: {
      phase: 'Running',
      podIP: ips[0],
      podIPs: ips.map((ip) => ({ ip })),
      hostIP: node.addresses[0],
      hostIPs: node.addresses.map((ip) => ({ ip })),
      conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }],
    },
  };
}
