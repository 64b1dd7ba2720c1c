import { test } from 'tap';
import { ccnpOf, cnpOf, parse, ruleLines } from './testing/rule-text.ts';

const NAMESPACE = 'io.kubernetes.pod.namespace';
const CLUSTER = 'io.cilium.k8s.policy.cluster';
const TEAM = 'io.cilium.k8s.namespace.labels.team';
const DEMO = 'k8s:NAMESPACE=demo';
const ALPHA = 'k8s:CLUSTER=alpha';

/** Rules of one direction, and their text. `clusterwide`: of a CiliumClusterwideNetworkPolicy. */
const rules: readonly {
  readonly name: string;
  readonly ingress?: unknown;
  readonly egress?: unknown;
  readonly deny?: unknown;
  readonly line: string;
  readonly clusterwide?: boolean;
  readonly defaultLocalCluster?: boolean;
}[] = [
  { name: 'an empty rule allows nothing', ingress: {}, line: 'allow ingress from nobody on any' },
  { name: 'an empty rule denies nothing', deny: {}, line: 'deny ingress from nobody on any' },
  {
    name: "fromEndpoints means the policy's namespace in the own cluster",
    ingress: { fromEndpoints: [{ matchLabels: { app: 'a' } }] },
    line: `allow ingress from {any:app=a, ${DEMO}, ${ALPHA}} on any`,
  },
  {
    name: 'without the default, every cluster',
    ingress: { fromEndpoints: [{ matchLabels: { app: 'a' } }] },
    line: `allow ingress from {any:app=a, ${DEMO}} on any`,
    defaultLocalCluster: false,
  },
  {
    name: 'a deny has the same limits',
    deny: { fromEndpoints: [{ matchLabels: { 'k8s:app': 'a' } }] },
    line: `deny ingress from {k8s:app=a, ${DEMO}, ${ALPHA}} on any`,
  },
  {
    name: 'a cluster named is that one',
    egress: { toEndpoints: [{ matchLabels: { [`k8s:${CLUSTER}`]: 'beta' } }] },
    line: `allow egress to {k8s:CLUSTER=beta, ${DEMO}} on any`,
  },
  {
    name: 'a cluster named without its source, too',
    egress: { toEndpoints: [{ matchLabels: { [CLUSTER]: 'beta' } }] },
    line: `allow egress to {any:CLUSTER=beta, ${DEMO}} on any`,
  },
  {
    name: 'any cluster by an expression',
    egress: { toEndpoints: [{ matchExpressions: [{ key: CLUSTER, operator: 'Exists' }] }] },
    line: `allow egress to {any:CLUSTER Exists, ${DEMO}} on any`,
  },
  {
    name: 'a namespace named is that one',
    ingress: { fromEndpoints: [{ matchLabels: { [`k8s:${NAMESPACE}`]: 'other' } }] },
    line: `allow ingress from {k8s:NAMESPACE=other, ${ALPHA}} on any`,
  },
  {
    name: 'every namespace by an expression',
    ingress: {
      fromEndpoints: [{ matchExpressions: [{ key: `k8s:${NAMESPACE}`, operator: 'Exists' }] }],
    },
    line: `allow ingress from {k8s:NAMESPACE Exists, ${ALPHA}} on any`,
  },
  {
    name: 'labels of namespaces lift the limit to one namespace',
    ingress: { fromEndpoints: [{ matchLabels: { [`k8s:${TEAM}`]: 'x' } }] },
    line: `allow ingress from {k8s:NS.team=x, k8s:NAMESPACE Exists, ${ALPHA}} on any`,
  },
  {
    name: 'an empty selector is everybody in the namespace',
    ingress: { fromEndpoints: [{}] },
    line: `allow ingress from {${DEMO}, ${ALPHA}} on any`,
  },
  {
    name: 'an empty selector of a clusterwide policy is every endpoint',
    ingress: { fromEndpoints: [{}] },
    clusterwide: true,
    line: `allow ingress from {k8s:NAMESPACE Exists, ${ALPHA}} on any`,
  },
  {
    name: 'a reserved label has no limits',
    ingress: { fromEndpoints: [{ matchLabels: { 'reserved:host': '' } }] },
    line: 'allow ingress from {reserved:host=} on any',
  },
  {
    name: 'an empty list of endpoints is nobody',
    ingress: { fromEndpoints: [] },
    line: 'allow ingress from nobody on any',
  },
  {
    name: 'an empty list of entities is nobody',
    egress: { toEntities: [] },
    line: 'allow egress to nobody on any',
  },
  {
    name: 'an empty list of networks is nobody',
    egress: { toCIDR: [] },
    line: 'allow egress to nobody on any',
  },
  {
    name: 'an empty list of sets is nobody',
    egress: { toCIDRSet: [] },
    line: 'allow egress to nobody on any',
  },
  {
    name: 'an empty list of nodes is nobody',
    egress: { toNodes: [] },
    line: 'allow egress to nobody on any',
  },
  {
    name: 'an empty list of services is nobody',
    egress: { toServices: [] },
    line: 'allow egress to nobody on any',
  },
  {
    name: 'an empty list beside another is nobody',
    ingress: { fromEndpoints: [{}], fromCIDRSet: [] },
    line: 'allow ingress from nobody on any',
  },
  {
    name: 'null is no list at all',
    ingress: { fromEndpoints: null, toPorts: [{ ports: [{ port: '1', protocol: 'TCP' }] }] },
    line: 'allow ingress from any on 6/1',
  },
  {
    name: 'entities that are one identity',
    ingress: { fromEntities: ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged'] },
    line: 'allow ingress from #1, #6, #5, #8, #4, #3 on any',
  },
  { name: 'entity all', ingress: { fromEntities: ['all'] }, line: 'allow ingress from any on any' },
  {
    name: 'entity none',
    ingress: { fromEntities: ['none'] },
    line: 'allow ingress from nobody on any',
  },
  {
    name: 'entities of the world',
    egress: { toEntities: ['world', 'world-ipv4', 'world-ipv6'] },
    line: 'allow egress to world, world4, world6 on any',
  },
  {
    name: 'entity cluster is the own one, with its nodes and API servers',
    ingress: { fromEntities: ['cluster'] },
    line: `allow ingress from #1 #6 #5 #8 #4 #3 #7, entity {${ALPHA}}, service default/kubernetes on any`,
  },
  {
    name: 'entity cluster is the own one also without the default',
    ingress: { fromEntities: ['cluster'] },
    defaultLocalCluster: false,
    line: `allow ingress from #1 #6 #5 #8 #4 #3 #7, entity {${ALPHA}}, service default/kubernetes on any`,
  },
  {
    name: 'entity cluster-mesh is every cluster',
    ingress: { fromEntities: ['cluster-mesh'] },
    line: 'allow ingress from #1 #6 #5 #8 #4 #3 #7, entity {k8s:CLUSTER Exists}, service default/kubernetes on any',
  },
  {
    name: 'entity kube-apiserver',
    egress: { toEntities: ['kube-apiserver'] },
    line: 'allow egress to #7, service default/kubernetes on any',
  },
  {
    name: 'networks, an address among them',
    egress: { toCIDR: ['10.1.2.3/16', '192.0.2.1', '2001:db8::1', '0.0.0.0/0', '::/0'] },
    line: 'allow egress to 10.1.0.0/16, 192.0.2.1/32, 2001:db8::1/128, world4, world6 on any',
  },
  {
    name: 'networks with exceptions',
    egress: {
      toCIDRSet: [
        { cidr: '0.0.0.0/0', except: ['10.0.0.0/8', '169.254.0.0/16'] },
        { cidr: 'fd00::/8' },
      ],
    },
    line: 'allow egress to 0.0.0.0/0 -10.0.0.0/8 -169.254.0.0/16, fd00::/8 on any',
  },
  {
    name: 'an exception that leaves nothing',
    egress: { toCIDRSet: [{ cidr: '10.0.0.0/8', except: ['10.0.0.0/8'] }] },
    line: 'allow egress to 10.0.0.0/8 -10.0.0.0/8 on any',
  },
  {
    name: 'groups of networks by name and by labels',
    deny: {
      fromCIDRSet: [
        { cidrGroupRef: 'office', except: ['10.1.0.0/16'] },
        { cidrGroupSelector: { matchLabels: { net: 'x' } } },
      ],
    },
    line: 'deny ingress from group office -10.1.0.0/16, group {k8s:net=x} on any',
  },
  {
    name: 'services by name and by labels',
    egress: {
      toServices: [
        { k8sService: { serviceName: 'a', namespace: 'x' } },
        { k8sServiceSelector: { selector: { matchLabels: { app: 'c' } } } },
        { k8sServiceSelector: { selector: {}, namespace: 'y' } },
      ],
    },
    line: 'allow egress to service x/a, service */{any:app=c}, service y/{} on any',
  },
  {
    name: 'nodes, of the own cluster unless it is said',
    ingress: {
      fromNodes: [
        { matchLabels: { role: 'x' } },
        { matchExpressions: [{ key: CLUSTER, operator: 'Exists' }] },
      ],
    },
    line: `allow ingress from nodes {any:role=x, ${ALPHA}}, nodes {any:CLUSTER Exists} on any`,
  },
  {
    name: 'conditions alone grant nothing',
    ingress: { fromRequires: [{ matchLabels: { team: 'a' } }] },
    line: `allow ingress from nobody on any if {any:team=a, ${DEMO}, ${ALPHA}}`,
  },
  {
    name: 'conditions with ports alone grant nothing',
    ingress: { fromRequires: [{}], toPorts: [{ ports: [{ port: '1', protocol: 'TCP' }] }] },
    line: `allow ingress from nobody on 6/1 if {${DEMO}, ${ALPHA}}`,
  },
  {
    name: 'conditions beside endpoints',
    egress: { toRequires: [{ matchLabels: { team: 'a' } }], toEndpoints: [{}] },
    line: `allow egress to {${DEMO}, ${ALPHA}} on any if {any:team=a, ${DEMO}, ${ALPHA}}`,
  },
  {
    name: 'ports without other sides are open to everybody',
    ingress: { toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }] },
    line: 'allow ingress from any on 6/80',
  },
  {
    name: 'an empty list of ports is no limit',
    ingress: { fromEntities: ['host'], toPorts: [], icmps: [] },
    line: 'allow ingress from #1 on any',
  },
  {
    name: 'an empty list of ports alone is an empty rule',
    ingress: { toPorts: [] },
    line: 'allow ingress from nobody on any',
  },
  {
    name: 'ports that are none',
    ingress: { fromEntities: ['host'], toPorts: [{ ports: [] }] },
    line: 'allow ingress from #1 on nothing',
  },
  {
    name: 'protocols: in any case, three of them where none is said',
    ingress: {
      toPorts: [
        {
          ports: [
            { port: '1' },
            { port: '2', protocol: 'ANY' },
            { port: '3', protocol: 'udp' },
            { port: '4', protocol: 'SCTP' },
          ],
        },
      ],
    },
    line: 'allow ingress from any on 6/1 17/1 132/1 6/2 17/2 132/2 17/3 132/4',
  },
  {
    name: 'port 0 is every port',
    egress: {
      toPorts: [
        {
          ports: [
            { port: '0', protocol: 'TCP' },
            { port: 0, protocol: 'UDP' },
          ],
        },
      ],
    },
    line: 'allow egress to any on 6/* 17/*',
  },
  {
    name: 'ranges of ports, an end of 0 is none',
    egress: {
      toPorts: [
        {
          ports: [
            { port: '8000', endPort: 8009, protocol: 'TCP' },
            { port: '9', endPort: 0, protocol: 'TCP' },
          ],
        },
      ],
    },
    line: 'allow egress to any on 6/8000/13 6/8008/15 6/9',
  },
  {
    name: 'names of ports, of each protocol or of one',
    ingress: { toPorts: [{ ports: [{ port: 'HTTP' }, { port: 'dns', protocol: 'UDP' }] }] },
    line: 'allow ingress from any on 0:http 17:dns',
  },
  {
    name: 'rules of layer 7 that say nothing',
    ingress: { toPorts: [{ ports: [{ port: '1', protocol: 'TCP' }], rules: { http: null } }] },
    line: 'allow ingress from any on 6/1',
  },
  {
    name: 'ICMP by number and by name, of either family',
    ingress: {
      fromEntities: ['world'],
      icmps: [
        { fields: [{ type: 8 }, { type: 'EchoReply', family: 'IPv4' }, { type: '13' }] },
        {
          fields: [
            { type: 'EchoRequest', family: 'IPv6' },
            { type: 'PacketTooBig', family: 'IPv6' },
          ],
        },
      ],
    },
    line: 'allow ingress from world on 1/8 1/0 1/13 58/128 58/2',
  },
  {
    name: 'ICMP without other sides is open to everybody',
    egress: { icmps: [{ fields: [{ type: 8 }] }] },
    line: 'allow egress to any on 1/8',
  },
  {
    name: 'authentication that is switched off',
    ingress: { fromEntities: ['host'], authentication: { mode: 'disabled' } },
    line: 'allow ingress from #1 on any',
  },
];

for (const { name, ingress, egress, deny, line, clusterwide = false, ...options } of rules) {
  test(`CiliumNetworkPolicy: ${name}`, async (t) => {
    const spec = {
      endpointSelector: {},
      ...(ingress === undefined ? {} : { ingress: [ingress] }),
      ...(egress === undefined ? {} : { egress: [egress] }),
      ...(deny === undefined ? {} : { ingressDeny: [deny] }),
    };
    const policy = parse(clusterwide ? ccnpOf(spec) : cnpOf(spec), options);
    t.same(policy.problems, []);
    t.same(ruleLines(policy), [line]);
  });
}
