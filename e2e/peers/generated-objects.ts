/** What a generated cluster is made of, and each thing as the Kubernetes objects that stand for it. */
import type { KubernetesObject } from '../lab/kubernetes-object.ts';

/** How a cluster's pods are told to those who publish it. */
export type EndpointStyle = 'pods' | 'cilium-endpoints' | 'cilium-endpoint-slices';

/** A node. */
export interface GeneratedNode {
  readonly index: number;
  readonly name: string;
  readonly zone: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly dualStack: boolean;
  readonly encryptionKey: number;
  readonly hasIngress: boolean;
  readonly bootId: string;
}

/** A set of labels with its number. */
export interface GeneratedIdentity {
  readonly id: number;
  readonly namespace: string;
  /** Labels of the pods that have it. */
  readonly labels: Readonly<Record<string, string>>;
  readonly serviceAccount: string;
}

/** A pod, with its place among the addresses of its node. */
export interface GeneratedPod {
  readonly namespace: string;
  readonly name: string;
  readonly node: GeneratedNode;
  readonly slot: number;
  readonly identity: GeneratedIdentity;
  readonly namedPorts: boolean;
}

/** Names, numbers and addresses of a cluster. */
export interface GeneratedPlace {
  readonly cluster: string;
  readonly clusterId: number;
}

/** Addresses of a node for its pods. */
export const SLOTS_A_NODE = 240;

/** IPv4 address of a pod. */
export function podIpv4({ node, slot }: Pick<GeneratedPod, 'node' | 'slot'>): string {
  return `10.${16 + (node.index >> 8)}.${node.index & 255}.${slot + 10}`;
}

/** IPv6 address of a pod, whether or not its node has any. */
export function podIpv6({ node, slot }: Pick<GeneratedPod, 'node' | 'slot'>): string {
  return `fd00:10:${(node.index + 1).toString(16)}::${(slot + 10).toString(16)}`;
}

/** IPv4 address of a node. */
export function nodeIpv4({ index }: GeneratedNode): string {
  const number = index + 1;
  return `172.${20 + (number >> 16)}.${(number >> 8) & 255}.${number & 255}`;
}

/** The node as the API server knows it. */
export function nodeObject(node: GeneratedNode): KubernetesObject {
  const podCidrs = podCidrsOf(node);
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: node.name, labels: node.labels, annotations: node.annotations },
    spec: { podCIDR: podCidrs[0], podCIDRs: podCidrs },
    status: {
      addresses: [
        ...nodeAddresses(node).map((address) => ({ type: 'InternalIP', address })),
        { type: 'Hostname', address: node.name },
      ],
      nodeInfo: {
        bootID: node.bootId,
        machineID: '',
        systemUUID: '',
        kernelVersion: '6.12.0',
        osImage: 'Linux',
        containerRuntimeVersion: 'containerd://2.0.0',
        kubeletVersion: 'v1.34.0',
        kubeProxyVersion: '',
        operatingSystem: 'linux',
        architecture: 'amd64',
      },
    },
  };
}

/** The node as its Cilium agent describes it. */
export function ciliumNodeObject(node: GeneratedNode): KubernetesObject {
  const own = { node, slot: -9 };
  return {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNode',
    metadata: { name: node.name, labels: node.labels, annotations: node.annotations },
    spec: {
      addresses: [
        ...nodeAddresses(node).map((ip) => ({ type: 'InternalIP', ip })),
        { type: 'CiliumInternalIP', ip: podIpv4(own) },
        // An agent writes addresses in whatever form it was given them.
        ...(node.dualStack ? [{ type: 'CiliumInternalIP', ip: podIpv6(own).toUpperCase() }] : []),
        { type: 'Hostname', ip: node.name },
      ],
      ipam: { podCIDRs: podCidrsOf(node) },
      health: {
        ipv4: podIpv4({ node, slot: -8 }),
        ...(node.dualStack ? { ipv6: podIpv6({ node, slot: -8 }) } : {}),
      },
      ...(node.hasIngress ? { ingress: { ipv4: podIpv4({ node, slot: -7 }) } } : {}),
      encryption: node.encryptionKey === 0 ? {} : { key: node.encryptionKey },
      bootid: node.bootId,
    },
  };
}

/** An identity as Cilium's agents or operator allocate it. */
export function ciliumIdentityObject(
  identity: GeneratedIdentity,
  { cluster }: GeneratedPlace,
): KubernetesObject {
  const { namespace, serviceAccount, labels } = identity;
  return {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumIdentity',
    metadata: {
      name: String(identity.id),
      labels: { 'io.kubernetes.pod.namespace': namespace, ...labels },
    },
    'security-labels': {
      ...Object.fromEntries(Object.entries(labels).map(([key, value]) => [`k8s:${key}`, value])),
      'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name': namespace,
      'k8s:io.cilium.k8s.policy.cluster': cluster,
      'k8s:io.cilium.k8s.policy.serviceaccount': serviceAccount,
      'k8s:io.kubernetes.pod.namespace': namespace,
    },
  };
}

/** A pod as its Cilium agent describes it. */
export function ciliumEndpointObject(pod: GeneratedPod): KubernetesObject {
  return {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumEndpoint',
    metadata: { namespace: pod.namespace, name: pod.name, labels: pod.identity.labels },
    status: {
      id: 100 + pod.slot,
      state: 'ready',
      identity: {
        id: pod.identity.id,
        labels: [`k8s:io.kubernetes.pod.namespace=${pod.namespace}`],
      },
      networking: networkingOf(pod),
      encryption: encryptionOf(pod),
      'service-account': pod.identity.serviceAccount,
      ...(pod.namedPorts ? { 'named-ports': NAMED_PORTS } : {}),
    },
  };
}

/** Several pods of one namespace, as Cilium's operator packs them. */
export function ciliumEndpointSliceObject(
  name: string,
  namespace: string,
  pods: readonly GeneratedPod[],
): KubernetesObject {
  return {
    apiVersion: 'cilium.io/v2alpha1',
    kind: 'CiliumEndpointSlice',
    metadata: { name },
    namespace,
    endpoints: pods.map((pod) => ({
      name: pod.name,
      id: pod.identity.id,
      networking: networkingOf(pod),
      encryption: encryptionOf(pod),
      'service-account': pod.identity.serviceAccount,
      ...(pod.namedPorts ? { 'named-ports': NAMED_PORTS } : {}),
    })),
  };
}

/** A pod as its kubelet reports it. */
export function podObject(pod: GeneratedPod): KubernetesObject {
  const ips = [podIpv4(pod), ...(pod.node.dualStack ? [podIpv6(pod)] : [])];
  const hostIps = nodeAddresses(pod.node);
  const ports = NAMED_PORTS.map(({ name, port, protocol }) => ({
    ...(pod.namedPorts ? { name } : {}),
    containerPort: port,
    protocol,
  }));
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: pod.namespace, name: pod.name, labels: pod.identity.labels },
    spec: {
      nodeName: pod.node.name,
      serviceAccountName: pod.identity.serviceAccount,
      automountServiceAccountToken: false,
      containers: [{ name: 'main', image: 'example.org/app:1', ports }],
    },
    status: {
      phase: 'Running',
      hostIP: hostIps[0],
      hostIPs: hostIps.map((ip) => ({ ip })),
      podIP: ips[0],
      podIPs: ips.map((ip) => ({ ip })),
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  };
}

const NAMED_PORTS = [
  { name: 'http', port: 8080, protocol: 'TCP' },
  { name: 'dns', port: 5353, protocol: 'UDP' },
] as const;

function podCidrsOf(node: GeneratedNode): string[] {
  const v4 = `${podIpv4({ node, slot: -10 })}/24`;
  return node.dualStack ? [v4, `${podIpv6({ node, slot: -10 }).replace(/::0$/, '::')}/64`] : [v4];
}

function nodeAddresses(node: GeneratedNode): string[] {
  const v4 = nodeIpv4(node);
  return node.dualStack ? [v4, `fd00:20::${(node.index + 1).toString(16)}`] : [v4];
}

function networkingOf(pod: GeneratedPod): unknown {
  const ipv6 = pod.node.dualStack ? { ipv6: podIpv6(pod) } : {};
  return { addressing: [{ ipv4: podIpv4(pod), ...ipv6 }], node: nodeIpv4(pod.node) };
}

function encryptionOf(pod: GeneratedPod): unknown {
  return pod.node.encryptionKey === 0 ? {} : { key: pod.node.encryptionKey };
}
