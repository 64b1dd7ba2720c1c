/** What cannot be enforced says what, where and why, and closes instead of opening (promise 17). */
import { test } from 'tap';
import { clauseText, cnpOf, parse, ruleLines } from './testing/rule-text.ts';

const DEMO = 'k8s:NAMESPACE=demo';

/** What is refused of an ingress rule; each also of a deny, which then denies everything. */
const refusedIngress: readonly [name: string, rule: unknown, problem: string][] = [
  [
    'an HTTP rule',
    { toPorts: [{ ports: [{ port: '80' }], rules: { http: [] } }] },
    'toPorts[0].rules http: rules of layer 7 are not supported by this version',
  ],
  [
    'a Kafka rule',
    { toPorts: [{ ports: [], rules: { kafka: [{}] } }] },
    'toPorts[0].rules kafka: rules of layer 7',
  ],
  [
    'a listener',
    { toPorts: [{ ports: [], listener: {} }] },
    'toPorts[0].listener is not supported',
  ],
  [
    'TLS that ends',
    { toPorts: [{ ports: [], terminatingTLS: {} }] },
    'toPorts[0].terminatingTLS is not supported',
  ],
  [
    'TLS that begins',
    { toPorts: [{ ports: [], originatingTLS: {} }] },
    'toPorts[0].originatingTLS is not supported',
  ],
  [
    'names of servers',
    { toPorts: [{ ports: [], serverNames: ['a'] }] },
    'toPorts[0].serverNames is not supported',
  ],
  [
    'authentication',
    { fromEndpoints: [{}], authentication: { mode: 'required' } },
    'authentication is not supported',
  ],
  ['groups of a cloud', { fromGroups: [{ aws: {} }] }, 'fromGroups is not supported'],
  ['a field of the other direction', { toEndpoints: [{}] }, 'toEndpoints is not supported'],
  ['an unknown field', { fromEndpoints: [{}], novelty: {} }, 'novelty is not supported'],
  [
    'an unknown entity',
    { fromEntities: ['galaxy'] },
    'fromEntities[0] is "galaxy", which is no entity',
  ],
  ['an entity that is no text', { fromEntities: [{}] }, 'fromEntities[0] is an object'],
  [
    'an entity by a name of objects',
    { fromEntities: ['constructor'] },
    'fromEntities[0] is "constructor"',
  ],
  [
    'two ways to name other sides',
    { fromEndpoints: [{}], fromEntities: ['host'] },
    'fromEntities must not stand beside fromEndpoints: write a rule for each',
  ],
  ['a list that is none', { fromEndpoints: {} }, 'fromEndpoints must be a list'],
  ['a selector of null', { fromEndpoints: [null] }, 'fromEndpoints[0] must be an object'],
  ['a broken condition', { fromRequires: ['x'] }, 'fromRequires[0] must be an object'],
  [
    'a network that is none',
    { fromCIDR: ['10.0.0'] },
    'fromCIDR[0] is "10.0.0": expected an address or a network',
  ],
  [
    'IPv4 within IPv6',
    { fromCIDR: ['::ffff:10.0.0.0/104'] },
    'fromCIDR[0] is "::ffff:10.0.0.0/104"',
  ],
  [
    'an address in a set',
    { fromCIDRSet: [{ cidr: '10.0.0.1' }] },
    'fromCIDRSet[0].cidr is "10.0.0.1": expected a network',
  ],
  [
    'a set of nothing',
    { fromCIDRSet: [{}] },
    'fromCIDRSet[0] must have one of cidr, cidrGroupRef and cidrGroupSelector',
  ],
  [
    'a set of two',
    { fromCIDRSet: [{ cidr: '10.0.0.0/8', cidrGroupRef: 'a' }] },
    'fromCIDRSet[0] must have one of',
  ],
  [
    'a group that is no text',
    { fromCIDRSet: [{ cidrGroupRef: 7 }] },
    'fromCIDRSet[0].cidrGroupRef must be a text',
  ],
  [
    'a broken selector of groups',
    { fromCIDRSet: [{ cidrGroupSelector: 7 }] },
    'fromCIDRSet[0].cidrGroupSelector must be an object',
  ],
  [
    'an exception outside',
    { fromCIDRSet: [{ cidr: '10.0.0.0/8', except: ['9.0.0.0/16'] }] },
    'fromCIDRSet[0].except[0] is 9.0.0.0/16, which does not lie in',
  ],
  [
    'an unknown part of a set',
    { fromCIDRSet: [{ cidr: '10.0.0.0/8', via: 1 }] },
    'fromCIDRSet[0].via is not supported',
  ],
  ['nodes that are none', { fromNodes: ['x'] }, 'fromNodes[0] must be an object'],
  [
    'no port',
    { toPorts: [{ ports: [{ protocol: 'TCP' }] }] },
    'toPorts[0].ports[0].port must be there; 0 means every port',
  ],
  [
    'an empty port',
    { toPorts: [{ ports: [{ port: '' }] }] },
    'toPorts[0].ports[0].port is an empty string',
  ],
  [
    'a port in octal',
    { toPorts: [{ ports: [{ port: '010' }] }] },
    'toPorts[0].ports[0].port is "010"',
  ],
  [
    'a port beyond 65535',
    { toPorts: [{ ports: [{ port: '70000' }] }] },
    'toPorts[0].ports[0].port must be 0 to 65535',
  ],
  [
    'a range that runs backwards',
    { toPorts: [{ ports: [{ port: '20', endPort: 10 }] }] },
    'toPorts[0].ports[0].endPort must not be below port 20',
  ],
  [
    'a range of every port',
    { toPorts: [{ ports: [{ port: '0', endPort: 10 }] }] },
    'toPorts[0].ports[0].endPort needs the number of a port',
  ],
  [
    'ICMP as a protocol',
    { toPorts: [{ ports: [{ port: '1', protocol: 'ICMP' }] }] },
    'toPorts[0].ports[0].protocol is "ICMP": in this version it must be one of TCP, UDP, SCTP, ANY',
  ],
  [
    'a protocol that is no text',
    { toPorts: [{ ports: [{ port: '1', protocol: 6 }] }] },
    'toPorts[0].ports[0].protocol is 6',
  ],
  [
    'an unknown part of a port',
    { toPorts: [{ ports: [{ port: '1', name: 'x' }] }] },
    'toPorts[0].ports[0].name is not supported',
  ],
  [
    'ports and ICMP',
    { toPorts: [{ ports: [] }], icmps: [{ fields: [] }] },
    'icmps must not stand beside toPorts',
  ],
  [
    'an unknown type of ICMP',
    { icmps: [{ fields: [{ type: 'Ping' }] }] },
    'icmps[0].fields[0].type is "Ping": expected 0 to 255 or the name of a type of IPv4',
  ],
  [
    'a type of the other family',
    { icmps: [{ fields: [{ type: 'PacketTooBig' }] }] },
    'icmps[0].fields[0].type is "PacketTooBig"',
  ],
  [
    'a type by a name of objects',
    { icmps: [{ fields: [{ type: 'toString' }] }] },
    'icmps[0].fields[0].type is "toString"',
  ],
  ['a type beyond 255', { icmps: [{ fields: [{ type: 256 }] }] }, 'icmps[0].fields[0].type is 256'],
  [
    'no type',
    { icmps: [{ fields: [{ family: 'IPv6' }] }] },
    'icmps[0].fields[0].type is undefined',
  ],
  [
    'an unknown family',
    { icmps: [{ fields: [{ type: 8, family: 'IPX' }] }] },
    'icmps[0].fields[0].family is "IPX"',
  ],
  [
    'an unknown part of ICMP',
    { icmps: [{ fields: [{ type: 8, code: 0 }] }] },
    'icmps[0].fields[0].code is not supported',
  ],
];

for (const [name, rule, problem] of refusedIngress) {
  test(`CiliumNetworkPolicy: a rule with ${name} is refused, and never wider`, async (t) => {
    const good = { fromEntities: ['host'] };
    const allow = parse(cnpOf({ ingress: [rule, good] }));
    t.same(ruleLines(allow), ['allow ingress from #1 on any'], 'the good rule still holds');
    t.same(allow.clauses.map(clauseText), [`pods {${DEMO}} closes ingress`]);
    t.equal(allow.problems.length, 1);
    t.match(allow.problems[0]?.message, `spec.ingress[0].${problem}`);
    t.match(allow.problems[0]?.message, /: the rule allows nothing$/);
    t.match(allow.problems[0]?.path, /^spec\.ingress\[0\]/);

    const deny = parse(cnpOf({ ingress: [good], ingressDeny: [rule] }));
    t.same(ruleLines(deny), ['allow ingress from #1 on any', 'deny ingress from any on any']);
    t.match(deny.problems[0]?.message, `spec.ingressDeny[0].${problem}`);
    t.match(
      deny.problems[0]?.message,
      /: until it is corrected nothing may reach the pods selected$/,
    );
  });
}

const refusedEgress: readonly [name: string, rule: unknown, problem: string][] = [
  ['names of DNS', { toFQDNs: [{ matchName: 'a.example' }] }, 'toFQDNs is not supported'],
  [
    'an empty list of names of DNS',
    { toFQDNs: [], toPorts: [{ ports: [{ port: '1' }] }] },
    'toFQDNs is not supported',
  ],
  ['groups of a cloud', { toGroups: [{ aws: {} }] }, 'toGroups is not supported'],
  [
    'authentication',
    { toEntities: ['host'], authentication: {} },
    'authentication is not supported',
  ],
  ['a field of the other direction', { fromEndpoints: [{}] }, 'fromEndpoints is not supported'],
  [
    'a DNS rule',
    { toPorts: [{ ports: [{ port: '53' }], rules: { dns: [{}] } }] },
    'toPorts[0].rules dns: rules of layer 7',
  ],
  [
    'a service of two sorts',
    { toServices: [{ k8sService: {}, k8sServiceSelector: {} }] },
    'toServices[0] must have one of k8sService and k8sServiceSelector',
  ],
  ['a service of none', { toServices: [{}] }, 'toServices[0] must have one of'],
  [
    'a service without a namespace',
    { toServices: [{ k8sService: { serviceName: 'a' } }] },
    'toServices[0].k8sService.namespace must be a text',
  ],
  [
    'a service without a name',
    { toServices: [{ k8sService: { namespace: 'x' } }] },
    'toServices[0].k8sService.serviceName must be a text',
  ],
  [
    'a namespace that is no text',
    { toServices: [{ k8sService: { serviceName: 'a', namespace: 1 } }] },
    'toServices[0].k8sService.namespace must be a text',
  ],
  [
    'services by a broken selector',
    { toServices: [{ k8sServiceSelector: {} }] },
    'toServices[0].k8sServiceSelector.selector must be an object',
  ],
  [
    'an unknown part of a service',
    { toServices: [{ k8sService: { serviceName: 'a', port: 1 } }] },
    'toServices[0].k8sService.port is not supported',
  ],
];

for (const [name, rule, problem] of refusedEgress) {
  test(`CiliumNetworkPolicy: an egress rule with ${name} is refused, and never wider`, async (t) => {
    const allow = parse(cnpOf({ egress: [rule] }));
    t.same(ruleLines(allow), []);
    t.same(allow.clauses.map(clauseText), [`pods {${DEMO}} closes egress`]);
    t.match(allow.problems[0]?.message, `spec.egress[0].${problem}`);
    const deny = parse(cnpOf({ egressDeny: [rule], enableDefaultDeny: { egress: false } }));
    t.same(ruleLines(deny), ['deny egress to any on any']);
    t.match(deny.problems[0]?.message, /nothing may leave the pods selected$/);
  });
}
