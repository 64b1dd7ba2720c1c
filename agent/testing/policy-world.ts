/** A small mesh for random changes of what decides verdicts: every thing that can change, by a key, and what it may be. */
import type { ClusterChange, ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import { labelsFromRecord } from '../../mesh/wire/identity.ts';
import { parseClusterId, parseClusterName, parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { NamedPort } from '../../mesh/wire/ip-identity.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { PLAIN_TRAFFIC } from '../../mesh/wire/local-service.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { LocalEndpoint } from '../state/policy-state.ts';

/** The agent's cluster and a peer. */
export const ALPHA: ClusterRef = {
  name: parseClusterName('alpha'),
  id: parseClusterId(1),
  own: true,
};
export const BETA: ClusterRef = {
  name: parseClusterName('beta'),
  id: parseClusterId(2),
  own: false,
};

/** Something that may change: how its state becomes a change of a cluster. State 0: it is not there. */
export interface Changeable {
  readonly cluster: ClusterRef;
  /** States besides 0. */
  readonly states: number;
  change(state: number): ClusterChange;
}

const NAMESPACE = 'io.kubernetes.pod.namespace';
const CLUSTER = 'io.cilium.k8s.policy.cluster';
const APPS = ['server', 'client', 'other'] as const;

/** Endpoints that may live on the node; their addresses are `address 10.1.0.x` of CHANGEABLES. */
export const ENDPOINTS: readonly LocalEndpoint[] = [1, 2].map((endpointId) => ({
  endpointId,
  addresses: [parseIpAddress(`10.1.0.${endpointId}`)],
  ifindex: 10 + endpointId,
  hostInterface: `veth${endpointId}`,
  mac: '02:00:00:00:00:01',
}));

function identity(cluster: ClusterRef, local: number): Changeable {
  const id = parseNumericIdentity(cluster.id * 65_536 + local);
  return {
    cluster,
    states: APPS.length,
    change: (state) => ({
      kind: 'identity',
      id,
      value:
        state === 0
          ? undefined
          : labelsFromRecord({
              app: APPS[state - 1] ?? '',
              [NAMESPACE]: local % 2 === 0 ? 'demo' : 'shop',
              [CLUSTER]: cluster.name,
            }),
    }),
  };
}

const PORTS: readonly (readonly NamedPort[] | undefined)[] = [
  undefined,
  [{ name: 'http', port: 8080, protocol: 'TCP' }],
  [
    { name: 'http', port: 8081, protocol: 'TCP' },
    { name: 'dns', port: 5353, protocol: 'UDP' },
  ],
];

function address(cluster: ClusterRef, text: string, host: string): Changeable {
  const prefix = parseIpPrefix(text);
  return {
    cluster,
    states: 9,
    change: (state) => ({
      kind: 'ip',
      prefix,
      value:
        state === 0
          ? undefined
          : {
              prefix,
              isCidr: false,
              hostIp: parseIpAddress(host),
              identity: parseNumericIdentity(cluster.id * 65_536 + 300 + ((state - 1) % 3)),
              encryptionKey: 0,
              metadata: '',
              namespace: undefined,
              podName: undefined,
              serviceAccount: undefined,
              namedPorts: PORTS[Math.floor((state - 1) / 3)],
            },
    }),
  };
}

function node(cluster: ClusterRef, name: string, ip: string): Changeable {
  const value = (state: number): Node => ({
    name,
    cluster: cluster.name,
    clusterId: cluster.id,
    addresses: [{ type: 'InternalIP', ip: parseIpAddress(ip) }],
    ipv4AllocCidr: null,
    ipv6AllocCidr: null,
    ipv4SecondaryAllocCidrs: null,
    ipv6SecondaryAllocCidrs: null,
    ipv4HealthIp: null,
    ipv6HealthIp: null,
    ipv4IngressIp: null,
    ipv6IngressIp: null,
    source: 'custom-resource',
    encryptionKey: 0,
    labels: state === 1 ? { role: 'edge' } : { role: 'edge', zone: 'a' },
    annotations: null,
    wireguardPubKey: '',
    bootId: '',
  });
  return {
    cluster,
    states: 2,
    change: (state) => ({
      kind: 'node',
      name,
      value: state === 0 ? undefined : value(state),
    }),
  };
}

const anyCluster = [{ key: CLUSTER, operator: 'Exists' }];
const tcp = (port: string, endPort?: number) => [{ ports: [{ port, endPort, protocol: 'TCP' }] }];
const SERVER = { matchLabels: { app: 'server' } };

/** Specs that say something about every kind of other side, of ports, and of direction. */
const SPECS: readonly Readonly<Record<string, unknown>>[] = [
  { endpointSelector: SERVER, ingress: [{ fromEndpoints: [{ matchLabels: { app: 'client' } }] }] },
  {
    endpointSelector: SERVER,
    ingress: [
      {
        fromEndpoints: [{ matchLabels: { app: 'client' }, matchExpressions: anyCluster }],
        toPorts: tcp('8000', 8010),
      },
    ],
    ingressDeny: [
      { fromEndpoints: [{ matchExpressions: anyCluster }], toPorts: tcp('8004', 8005) },
    ],
  },
  { endpointSelector: {}, ingress: [{ fromEntities: ['world'], toPorts: tcp('443') }] },
  {
    endpointSelector: {},
    ingress: [{ toPorts: tcp('http') }],
    ingressDeny: [{ fromCIDRSet: [{ cidr: '203.0.113.0/24', except: ['203.0.113.7/32'] }] }],
  },
  {
    endpointSelector: {},
    egress: [
      { toCIDRSet: [{ cidrGroupRef: 'office' }], toPorts: tcp('22') },
      { toCIDR: ['198.51.0.0/16'] },
      { toPorts: tcp('http') },
    ],
  },
  {
    endpointSelector: SERVER,
    egress: [
      { toServices: [{ k8sService: { serviceName: 'db', namespace: 'demo' } }] },
      { toEntities: ['remote-node'], toPorts: tcp('4240') },
      { toEndpoints: [{ matchLabels: { app: 'other' } }], toPorts: tcp('http') },
    ],
  },
  {
    endpointSelector: {},
    enableDefaultDeny: { ingress: false, egress: false },
    ingressDeny: [{ fromNodes: [{ matchLabels: { zone: 'a' }, matchExpressions: anyCluster }] }],
    egressDeny: [{ toEntities: ['world'], toPorts: tcp('25') }],
  },
  {
    endpointSelector: SERVER,
    ingress: [
      { fromNodes: [{ matchLabels: { role: 'edge' } }] },
      { fromEntities: ['cluster'], toPorts: tcp('9100') },
      { fromCIDR: ['0.0.0.0/0'], toPorts: tcp('8443') },
    ],
  },
  {
    endpointSelector: SERVER,
    ingress: [{ fromEntities: ['all'], toPorts: tcp('8080') }],
    ingressDeny: [
      { fromEndpoints: [{ matchLabels: { app: 'other' }, matchExpressions: anyCluster }] },
    ],
  },
  {
    endpointSelector: {},
    enableDefaultDeny: { ingress: false, egress: false },
    egressDeny: [
      {
        toEndpoints: [{ matchLabels: { app: 'client' }, matchExpressions: anyCluster }],
        toPorts: tcp('8443'),
      },
    ],
  },
];

function policy(name: string): Changeable {
  return {
    cluster: ALPHA,
    states: SPECS.length,
    change: (state) => ({
      kind: 'local-policy',
      name: `cnp/demo/${name}`,
      value:
        state === 0
          ? undefined
          : {
              kind: 'CiliumNetworkPolicy',
              namespace: 'demo',
              name,
              generation: state,
              manifest: { spec: SPECS[state - 1] },
            },
    }),
  };
}

function group(name: string): Changeable {
  const lists = [['198.51.100.0/24'], ['198.51.100.0/25', '203.0.113.0/28'], ['2001:db8::/32']];
  const value = (state: number): LocalPolicy => ({
    kind: 'CiliumCIDRGroup',
    namespace: '',
    name,
    generation: state,
    manifest: { metadata: { name }, spec: { externalCIDRs: lists[state - 1] } },
  });
  return {
    cluster: ALPHA,
    states: lists.length,
    change: (state) => ({
      kind: 'local-policy',
      name: `ccg/${name}`,
      value: state === 0 ? undefined : value(state),
    }),
  };
}

function service(): Changeable {
  const lists = [['10.2.0.1'], ['10.2.0.1', '198.51.100.9'], []];
  return {
    cluster: ALPHA,
    states: lists.length,
    change: (state) => ({
      kind: 'local-service',
      name: 'demo/db',
      value:
        state === 0
          ? undefined
          : {
              ...PLAIN_TRAFFIC,
              namespace: 'demo',
              name: 'db',
              clusterIps: [],
              ports: [],
              headless: false,
              global: false,
              shared: false,
              affinity: 'none',
              backends: new Map(
                (lists[state - 1] ?? []).map((text) => [parseIpAddress(text), new Map()]),
              ),
            },
    }),
  };
}

/** Everything that may change, by a name. */
export const CHANGEABLES: Readonly<Record<string, Changeable>> = {
  'identity 1': identity(ALPHA, 300),
  'identity 2': identity(ALPHA, 301),
  'identity 3': identity(ALPHA, 302),
  'identity 4': identity(BETA, 300),
  'identity 5': identity(BETA, 301),
  'address 10.1.0.1': address(ALPHA, '10.1.0.1', '192.0.2.1'),
  'address 10.1.0.2': address(ALPHA, '10.1.0.2', '192.0.2.1'),
  'address 10.2.0.1': address(BETA, '10.2.0.1', '192.0.2.9'),
  'address 198.51.100.9': address(BETA, '198.51.100.9', '192.0.2.9'),
  'node near': node(ALPHA, 'near', '192.0.2.2'),
  'node far': node(BETA, 'far', '192.0.2.9'),
  'policy a': policy('a'),
  'policy b': policy('b'),
  'policy c': policy('c'),
  'group office': group('office'),
  'service db': service(),
};
