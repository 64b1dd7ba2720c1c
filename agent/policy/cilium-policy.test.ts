import { test } from 'tap';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { CLUSTER, ccnp, cnp, judge, NAMESPACE, np, TEAM } from './testing/judge.ts';

const cases: readonly {
  readonly name: string;
  readonly policies: readonly Partial<LocalPolicy>[];
  readonly rows: readonly string[];
  readonly enforced?: boolean;
  readonly defaultLocalCluster?: boolean;
}[] = [
  { name: 'no policy: everything is open', policies: [], rows: [], enforced: false },
  {
    name: 'CNP: another subject is not concerned',
    policies: [
      { manifest: { spec: { endpointSelector: { matchLabels: { app: 'x' } }, ingress: [{}] } } },
    ],
    rows: [],
    enforced: false,
  },
  { name: 'CNP: an empty rule allows nothing', policies: [cnp({})], rows: [] },
  {
    name: "CNP: fromEndpoints means the policy's namespace in the own cluster",
    policies: [cnp({ fromEndpoints: [{ matchLabels: { app: 'client' } }] })],
    rows: ['client 0/0/0'],
  },
  {
    name: 'CNP: without the default, every cluster',
    policies: [cnp({ fromEndpoints: [{ matchLabels: { app: 'client' } }] })],
    defaultLocalCluster: false,
    rows: ['client 0/0/0', 'remoteClient 0/0/0'],
  },
  {
    name: 'CNP: a cluster named is that one',
    policies: [cnp({ fromEndpoints: [{ matchLabels: { app: 'client', [CLUSTER]: 'beta' } }] })],
    rows: ['remoteClient 0/0/0'],
  },
  {
    name: 'CNP: any cluster by an expression',
    policies: [
      cnp({
        fromEndpoints: [
          {
            matchLabels: { 'k8s:app': 'client' },
            matchExpressions: [{ key: `k8s:${CLUSTER}`, operator: 'Exists' }],
          },
        ],
      }),
    ],
    rows: ['client 0/0/0', 'remoteClient 0/0/0'],
  },
  {
    name: 'CNP: a namespace named is that one',
    policies: [cnp({ fromEndpoints: [{ matchLabels: { [`k8s:${NAMESPACE}`]: 'other' } }] })],
    rows: ['other 0/0/0'],
  },
  {
    name: 'CNP: labels of namespaces lift the limit to one namespace',
    policies: [cnp({ fromEndpoints: [{ matchLabels: { [`k8s:${TEAM}`]: 'blue' } }] })],
    rows: ['other 0/0/0'],
  },
  {
    name: 'CNP: an empty selector is everybody in the namespace',
    policies: [cnp({ fromEndpoints: [{}] })],
    rows: ['client 0/0/0', 'server 0/0/0'],
  },
  {
    name: 'CNP: an empty list of endpoints is nobody',
    policies: [cnp({ fromEndpoints: [] })],
    rows: [],
  },
  {
    name: 'CNP: ports of one protocol',
    policies: [
      cnp({
        fromEndpoints: [{ matchLabels: { app: 'client' } }],
        toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }],
      }),
    ],
    rows: ['client 6/80/16'],
  },
  {
    name: 'CNP: ports without a protocol are TCP, UDP and SCTP',
    policies: [cnp({ fromEntities: ['world'], toPorts: [{ ports: [{ port: '53' }] }] })],
    rows: [
      '9 132/53/16',
      '9 17/53/16',
      '9 6/53/16',
      '10 132/53/16',
      '10 17/53/16',
      '10 6/53/16',
      'world 132/53/16',
      'world 17/53/16',
      'world 6/53/16',
    ],
  },
  {
    name: 'CNP: ports without sources are open to everybody',
    policies: [cnp({ toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }] })],
    rows: ['any 6/80/16'],
  },
  {
    name: 'CNP: a range of ports in aligned blocks',
    policies: [
      cnp({
        fromEntities: ['host'],
        toPorts: [{ ports: [{ port: '8000', endPort: 8009, protocol: 'TCP' }] }],
      }),
    ],
    rows: ['host 6/8000/13', 'host 6/8008/15'],
  },
  { name: 'CNP: entity all', policies: [cnp({ fromEntities: ['all'] })], rows: ['any 0/0/0'] },
  {
    name: 'CNP: entity cluster is the own one, with its nodes',
    policies: [cnp({ fromEntities: ['cluster'] })],
    rows: [
      '3 0/0/0',
      '5 0/0/0',
      '8 0/0/0',
      'client 0/0/0',
      'health 0/0/0',
      'host 0/0/0',
      'other 0/0/0',
      'remote-node 0/0/0',
      'server 0/0/0',
    ],
  },
  {
    name: 'CNP: entity remote-node',
    policies: [cnp({ fromEntities: ['remote-node'] })],
    rows: ['remote-node 0/0/0'],
  },
  {
    name: 'CNP: a reserved label',
    policies: [cnp({ fromEndpoints: [{ matchLabels: { 'reserved:host': '' } }] })],
    rows: ['host 0/0/0'],
  },
  {
    name: 'CNP: several specs',
    policies: [
      {
        manifest: {
          specs: [
            { endpointSelector: {}, ingress: [{ fromEntities: ['host'] }] },
            { endpointSelector: {}, ingress: [{ fromEntities: ['remote-node'] }] },
          ],
        },
      },
    ],
    rows: ['host 0/0/0', 'remote-node 0/0/0'],
  },
  {
    name: 'CNP: without default deny, rules change nothing',
    policies: [
      {
        manifest: {
          spec: {
            endpointSelector: {},
            enableDefaultDeny: { ingress: false },
            ingress: [{ fromEntities: ['host'] }],
          },
        },
      },
    ],
    rows: [],
    enforced: false,
  },
  {
    name: 'CCNP: every namespace',
    policies: [ccnp({ fromEndpoints: [{ matchLabels: { app: 'client' } }] })],
    rows: ['client 0/0/0', 'other 0/0/0'],
  },
  {
    name: 'policies add up',
    policies: [cnp({ fromEntities: ['host'] }), np({ ingress: [{ from: [{ podSelector: {} }] }] })],
    rows: ['client 0/0/0', 'host 0/0/0', 'server 0/0/0'],
  },
];

for (const { name, policies, rows, enforced = true, defaultLocalCluster } of cases) {
  test(`policies: ${name}`, async (t) => {
    const outcome = judge(
      policies,
      defaultLocalCluster === undefined ? {} : { defaultLocalCluster },
    );
    t.same(outcome.rows, [...rows].sort());
    t.equal(outcome.enforced, enforced);
    t.same(
      outcome.problems.filter((line) => !line.includes('egress')),
      [],
    );
  });
}
