import { test } from 'tap';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { CLUSTER, judge, np } from './testing/judge.ts';

const cases: readonly {
  readonly name: string;
  readonly policies: readonly Partial<LocalPolicy>[];
  readonly rows: readonly string[];
  readonly enforced?: boolean;
  readonly defaultLocalCluster?: boolean;
}[] = [
  {
    name: 'NetworkPolicy: pods of the same namespace',
    policies: [np({ ingress: [{ from: [{ podSelector: { matchLabels: { app: 'client' } } }] }] })],
    rows: ['client 0/0/0'],
  },
  { name: 'NetworkPolicy: no rule allows nothing', policies: [np({ ingress: [] })], rows: [] },
  {
    name: 'NetworkPolicy: an empty rule allows everybody',
    policies: [np({ ingress: [{}] })],
    rows: ['any 0/0/0'],
  },
  {
    name: 'NetworkPolicy: every namespace',
    policies: [np({ ingress: [{ from: [{ namespaceSelector: {} }] }] })],
    rows: ['client 0/0/0', 'other 0/0/0', 'server 0/0/0'],
  },
  {
    name: 'NetworkPolicy: a namespace by its labels, and pods in it',
    policies: [
      np({
        ingress: [
          {
            from: [
              {
                namespaceSelector: { matchLabels: { team: 'blue' } },
                podSelector: { matchLabels: { app: 'client' } },
              },
            ],
          },
        ],
      }),
    ],
    rows: ['other 0/0/0'],
  },
  {
    name: 'NetworkPolicy: another cluster when it is named',
    policies: [
      np({
        ingress: [
          {
            from: [
              {
                namespaceSelector: {},
                podSelector: {
                  matchExpressions: [{ key: CLUSTER, operator: 'In', values: ['beta'] }],
                },
              },
            ],
          },
        ],
      }),
    ],
    rows: ['remoteClient 0/0/0', 'remoteOther 0/0/0'],
  },
  {
    name: 'NetworkPolicy: ports are TCP unless said otherwise',
    policies: [
      np({
        ingress: [{ ports: [{ port: 80 }, { port: 53, protocol: 'UDP' }, { protocol: 'SCTP' }] }],
      }),
    ],
    rows: ['any 132/0/0', 'any 17/53/16', 'any 6/80/16'],
  },
  {
    name: 'NetworkPolicy: only egress leaves ingress open',
    policies: [np({ policyTypes: ['Egress'] })],
    rows: [],
    enforced: false,
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
