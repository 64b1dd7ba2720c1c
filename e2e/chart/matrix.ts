/** Values that the chart is rendered with in tests: together they reach every line of its templates. */
import { type ChartValues, LEAST } from './helm.ts';

const PEM = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n';

/** A peer of ours as values have it. */
export const BETA = {
  clusterId: 2,
  maxConnectedClusters: 255,
  endpoints: ['https://beta.mesh.cilium.io:2379'],
  enrollment: ['beta.mesh.cilium.io:2382'],
  hostAliases: [{ hostname: 'beta.mesh.cilium.io', ips: ['203.0.113.9'] }],
  ca: PEM,
  clientKeyHash: 'A'.repeat(43),
  networks: { pods: ['10.2.0.0/16'], services: ['10.102.0.0/16'], nodes: ['192.0.2.0/24'] },
};

/** A peer that Cilium runs. */
export const GAMMA = {
  clusterId: 3,
  endpoints: ['https://gamma.mesh.cilium.io:2379'],
  ca: PEM,
  clientCertificateSecret: 'gamma-client',
};

const monitoring: ChartValues = {
  'prometheusRule.enabled': true,
  'prometheusRule.labels': { team: 'net' },
  'dashboards.enabled': true,
  'dashboards.annotations': { folder: 'mesh' },
  'clustermesh.apiserver.metrics.serviceMonitor.enabled': true,
  'clustermesh.apiserver.metrics.serviceMonitor.labels': { team: 'net' },
};

/** Each by what it is about. */
export const MATRIX: Readonly<Record<string, ChartValues>> = {
  'any-cni, defaults': LEAST['any-cni'],
  'cilium, defaults': LEAST.cilium,
  'any-cni, everything': {
    ...LEAST['any-cni'],
    ...monitoring,
    commonLabels: { owner: 'us' },
    imagePullSecrets: [{ name: 'pull' }],
    'image.digest': `sha256:${'0'.repeat(64)}`,
    'clustermesh.enableEndpointSliceSynchronization': true,
    'clustermesh.enablePolicyStatus': true,
    'clustermesh.mcsapi.enabled': true,
    'clustermesh.meshMachines.enabled': true,
    'clustermesh.config.clusters': { beta: BETA, gamma: GAMMA, off: { enabled: false } },
    'clustermesh.apiserver.extraArgs': ['--identity-grace=1h'],
    'clustermesh.apiserver.podAnnotations': { note: 'a' },
    'clustermesh.apiserver.podLabels': { note: 'a' },
    'clustermesh.apiserver.tolerations': [{ key: 'control', operator: 'Exists' }],
    'clustermesh.apiserver.topologySpreadConstraints': [
      {
        maxSkew: 1,
        topologyKey: 'zone',
        whenUnsatisfiable: 'ScheduleAnyway',
        labelSelector: { matchLabels: { 'k8s-app': 'clustermesh-apiserver' } },
      },
    ],
    'clustermesh.apiserver.affinity': { nodeAffinity: {} },
    'clustermesh.apiserver.service.type': 'LoadBalancer',
    'clustermesh.apiserver.service.annotations': { internal: 'yes' },
    'clustermesh.apiserver.service.labels': { note: 'a' },
    'clustermesh.apiserver.service.loadBalancerClass': 'lb.example/class',
    'clustermesh.apiserver.service.loadBalancerSourceRanges': ['192.0.2.0/24'],
    'clustermesh.apiserver.service.externalTrafficPolicy': 'Local',
    'clustermesh.apiserver.service.enableSessionAffinity': 'Always',
    'clustermesh.apiserver.service.ipFamilyPolicy': 'SingleStack',
    'clustermesh.apiserver.service.ipFamilies': ['IPv4'],
    'clustermesh.apiserver.advertise.gate': ['mesh.example:32379'],
    'clustermesh.apiserver.advertise.registry': ['mesh.example:32381'],
    'clustermesh.apiserver.advertise.enrollment': ['mesh.example:32382'],
    'clustermesh.networks.pods': ['10.1.0.0/16', 'fd00:1::/48'],
    'clustermesh.networks.nodes': ['192.0.2.0/24'],
    'clustermesh.networks.services': ['10.101.0.0/16'],
    'clustermesh.networks.machines': ['198.51.100.0/24'],
    'clustermesh.apiserver.tls.authMode': 'cluster',
    'clustermesh.apiserver.tls.server.extraDnsNames': ['mesh.example'],
    'clustermesh.apiserver.tls.server.extraIpAddresses': ['203.0.113.7', '2001:db8::7'],
    'clustermesh.apiserver.etcd.persistentVolume.storageClassName': 'fast',
    'clustermesh.apiserver.networkPolicy.metricsFrom': [
      { namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'monitoring' } } },
    ],
    'agent.extraArgs': ['--trace-level=low'],
    'agent.podAnnotations': { note: 'a' },
    'agent.podLabels': { note: 'a' },
    'agent.affinity': { nodeAffinity: {} },
    'agent.hostPID': true,
    'agent.kubeProxyReplacement': true,
    'agent.services': 'all',
    'agent.metrics.podMonitor.enabled': true,
    'agent.metrics.podMonitor.labels': { team: 'net' },
  },
  'any-cni, external etcd and replicas': {
    ...LEAST['any-cni'],
    'clustermesh.apiserver.replicas': 3,
    'clustermesh.apiserver.kvstore.mode': 'external',
    'clustermesh.apiserver.kvstore.endpoints': ['https://etcd-0:2379', 'https://etcd-1:2379'],
    'clustermesh.apiserver.kvstore.tlsSecretName': 'etcd-client',
    'clustermesh.apiserver.service.type': 'ClusterIP',
    'clustermesh.apiserver.service.clusterIP': '10.96.0.77',
    'clustermesh.apiserver.metrics.serviceMonitor.enabled': true,
  },
  'any-cni, external etcd without TLS': {
    ...LEAST['any-cni'],
    'clustermesh.apiserver.kvstore.mode': 'external',
    'clustermesh.apiserver.kvstore.endpoints': ['http://etcd-0:2379'],
  },
  'any-cni, cronJob, data in memory, privileged': {
    ...LEAST['any-cni'],
    'clustermesh.apiserver.tls.auto.method': 'cronJob',
    'clustermesh.apiserver.etcd.persistentVolume.enabled': false,
    'clustermesh.apiserver.etcd.storageMedium': 'Memory',
    'agent.privileged': true,
    'agent.cni.install': false,
    'agent.metrics.enabled': false,
    'clustermesh.apiserver.metrics.enabled': false,
    'clustermesh.apiserver.networkPolicy.enabled': false,
    'clustermesh.apiserver.podDisruptionBudget.enabled': false,
  },
  'any-cni, cert-manager, a claim that is there': {
    ...LEAST['any-cni'],
    'clustermesh.apiserver.tls.auto.method': 'certmanager',
    'clustermesh.apiserver.tls.auto.certManagerIssuerRef': {
      group: 'cert-manager.io',
      kind: 'ClusterIssuer',
      name: 'mesh',
    },
    'clustermesh.apiserver.etcd.persistentVolume.existingClaim': 'mine',
  },
  'any-cni, taking it off the nodes': { ...LEAST['any-cni'], 'agent.cleanup': true },
  'any-cni, large mesh': {
    ...LEAST['any-cni'],
    'cluster.id': 500,
    'clustermesh.maxConnectedClusters': 511,
  },
  'cilium, replicas and peers': {
    ...LEAST.cilium,
    ...monitoring,
    'clustermesh.apiserver.replicas': 3,
    'clustermesh.mcsapi.enabled': true,
    'clustermesh.config.clusters': { beta: BETA },
  },
  'cilium, with a claim': {
    ...LEAST.cilium,
    'clustermesh.apiserver.etcd.persistentVolume.enabled': true,
    'clustermesh.config.clusters': { beta: BETA, gamma: GAMMA },
  },
};
