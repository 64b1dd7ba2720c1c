import { test } from 'tap';
import { type Labels, labelsFromRecord } from '../../mesh/wire/identity.ts';
import type { EnforcementMode } from './enforcement-mode.ts';
import { createPeerSets } from './peer-sets.ts';
import { ANY_PORT, type ParsedPolicy, type PolicyClause, type Rule } from './rule.ts';
import { requireLabel } from './selector.ts';
import { createSubjects } from './subjects.ts';

const app = (name: string) => [requireLabel('k8s', 'app', name)];
const labels = (name: string, more: Record<string, string> = {}): Labels =>
  labelsFromRecord({ app: name, ...more });
const tcp = (port: number): Rule['ports'][number] => ({
  kind: 'block',
  protocol: 6,
  port,
  portPrefixBits: 16,
});

const rule = (over: Partial<Rule>): Rule => ({
  path: 'spec.ingress[0]',
  direction: 'ingress',
  verdict: 'allow',
  peers: [],
  ports: [ANY_PORT],
  requires: [],
  ...over,
});
const policyOf = (name: string, clause: Partial<PolicyClause>): ParsedPolicy => ({
  kind: 'CiliumNetworkPolicy',
  namespace: 'demo',
  name,
  generation: 1,
  problems: [],
  clauses: [
    {
      subject: { kind: 'pods', selector: app('server') },
      ingressEnforced: true,
      egressEnforced: false,
      isolates: false,
      rules: [],
      ...clause,
    },
  ],
});

function open(mode: EnforcementMode = 'default') {
  const peers = createPeerSets({ holderOf: () => undefined });
  const subjects = createSubjects({ peers, mode });
  const subject = (name: string) =>
    subjects.open(name, { subject: { kind: 'pods', labels: labels(name) }, namedPorts: [] });
  const texts = (name: string, direction: 'ingress' | 'egress' = 'ingress') =>
    [...subject(name).rows.entries(1)]
      .filter((row) => row.direction === direction)
      .map((row) => `${row.verdict} ${row.identity} ${row.protocol}/${row.port}`);
  return { peers, subjects, subject, texts };
}

test('endpoints that are alike share rows, and identities to which the same rules apply share a list', async (t) => {
  const { peers, subjects, subject } = open();
  for (let id = 1000; id < 1100; id += 1) peers.setIdentity(id, labels('client'));
  peers.setIdentity(2000, labels('client', { also: 'admin' }));
  const admin = [requireLabel('k8s', 'also', 'admin')];
  subjects.setPolicy(
    'p',
    policyOf('p', {
      rules: [
        rule({ peers: [{ kind: 'selector', selector: app('client') }], ports: [tcp(80)] }),
        rule({ peers: [{ kind: 'selector', selector: admin }], ports: [tcp(22)] }),
      ],
    }),
  );
  const { rows } = subject('server');
  t.equal(subject('server').rows, rows);
  t.equal(rows.rowsOf('ingress', 1000), rows.rowsOf('ingress', 1099), 'one list for all of them');
  t.equal(rows.rowsOf('ingress', 2000).length, 2);
  t.equal(rows.count, 102);
});

test('a new identity touches only those whose rules select it, a policy those whom it selects', async (t) => {
  const { peers, subjects, subject } = open();
  const [server, other] = [subject('server'), subject('other')];
  const clients = [rule({ peers: [{ kind: 'selector', selector: app('client') }] })];
  subjects.setPolicy('p', policyOf('p', { rules: clients }));
  subjects.setPolicy(
    'q',
    policyOf('q', { subject: { kind: 'pods', selector: app('other') }, rules: [] }),
  );
  subjects.prepare();
  t.same(
    subjects.commit(0).map(({ subject: one }) => one.key),
    ['server', 'other'],
  );
  peers.setIdentity(1000, labels('client'));
  t.equal(other.rows.isStale, false);
  t.match(subjects.update(), [
    {
      subject: { key: 'server' },
      differences: [{ direction: 'ingress', identity: 1000, before: [], after: [0] }],
    },
  ]);
  peers.setIdentity(1001, labels('nobody'));
  t.same(subjects.update(), []);
  subjects.setPolicy('q', undefined);
  subjects.prepare();
  t.same(
    subjects.commit(0).map(({ subject: one }) => one.key),
    ['other'],
  );
  subjects.setPolicy('r', policyOf('r', { subject: { kind: 'nodes', selector: [] } }));
  t.equal(subjects.isUnprepared, false, 'a policy about nodes is about no pod');
  t.equal(server.rows.policy.policies.length, 1);
});

test('what is prepared changes no rows before it is committed, but gives new networks the rows of now', async (t) => {
  const { peers, subjects, subject } = open();
  const { rows } = subject('server');
  const world = [rule({ peers: [{ kind: 'world', family: undefined }], ports: [tcp(443)] })];
  subjects.setPolicy('p', policyOf('p', { rules: world }));
  subjects.prepare();
  subjects.commit(0);
  const before = subject('server').rows;
  t.not(before, rows);
  const network = '203.0.113.0/24' as never;
  const deny = rule({ verdict: 'deny', peers: [{ kind: 'cidr', prefix: network, except: [] }] });
  subjects.setPolicy('d', policyOf('d', { rules: [deny] }));
  subjects.prepare();
  const [identity] = [...peers.cidrs.all()].map((holding) => holding.identity);
  t.ok(identity);
  t.match(subjects.update(), [{ differences: [{ identity, before: [] }] }]);
  t.same(before.rowsOf('ingress', identity ?? 0), before.rowsOf('ingress', 2), 'as the world');
  const [change] = subjects.commit(0);
  t.same(
    change?.differences.map((difference) => difference.identity),
    [identity],
  );
});

test('what all policies together say of a subject', async (t) => {
  const client = rule({ peers: [{ kind: 'selector', selector: app('client') }], ports: [tcp(80)] });
  const any = rule({ peers: [{ kind: 'any' }], ports: [tcp(443)] });
  const deny = rule({ verdict: 'deny', peers: [{ kind: 'reserved', identities: [6] }] });
  const role = [requireLabel('k8s', 'role', 'x')];
  const cases: readonly {
    readonly name: string;
    readonly policies: readonly Partial<PolicyClause>[];
    readonly mode?: EnforcementMode;
    readonly rows: readonly string[];
    readonly enforced: boolean;
  }[] = [
    { name: 'nothing', policies: [], rows: [], enforced: false },
    { name: 'a clause without rules closes', policies: [{}], rows: [], enforced: true },
    {
      name: 'rules add up',
      policies: [{ rules: [client] }, { rules: [any] }],
      rows: ['allow 0 6/443', 'allow 1000 6/80', 'allow 1001 6/80'],
      enforced: true,
    },
    {
      name: 'requirements limit the selectors of all policies, and nothing else',
      policies: [{ rules: [client, any] }, { rules: [rule({ requires: [role] })] }],
      rows: ['allow 0 6/443', 'allow 1001 6/80'],
      enforced: true,
    },
    {
      name: 'allows without default deny change nothing',
      policies: [{ ingressEnforced: false, rules: [client] }],
      rows: [],
      enforced: false,
    },
    {
      name: 'denies without default deny leave the rest open',
      policies: [{ ingressEnforced: false, rules: [client, deny] }],
      rows: ['allow 0 0/0', 'deny 6 0/0'],
      enforced: true,
    },
    {
      name: 'denies win over allows',
      policies: [{ rules: [rule({ peers: [{ kind: 'any' }] }), deny] }],
      rows: ['allow 0 0/0', 'deny 6 0/0'],
      enforced: true,
    },
    {
      name: 'what cannot be read closes, whatever others allow',
      policies: [{ rules: [any] }, { isolates: true, ingressEnforced: false }],
      rows: [],
      enforced: true,
    },
    { name: 'always', mode: 'always', policies: [], rows: [], enforced: true },
    {
      name: 'always, with rules that close nothing themselves',
      mode: 'always',
      policies: [{ ingressEnforced: false, rules: [any] }],
      rows: ['allow 0 6/443'],
      enforced: true,
    },
    { name: 'never', mode: 'never', policies: [{ rules: [any] }], rows: [], enforced: false },
  ];
  for (const { name, policies, mode, rows, enforced } of cases) {
    const { peers, subjects, subject, texts } = open(mode);
    peers.setIdentity(1000, labels('client'));
    peers.setIdentity(1001, labels('client', { role: 'x' }));
    for (const [index, clause] of policies.entries()) {
      subjects.setPolicy(`p${index}`, policyOf(`p${index}`, clause));
    }
    t.same(texts('server').sort(), rows, name);
    t.equal(subject('server').rows.policy.ingress.enforced, enforced, name);
  }
});

test('a named port of egress is what each of the others declares, and follows that', async (t) => {
  const { peers, subjects, texts, subject } = open();
  for (const id of [1000, 1001, 1002]) peers.setIdentity(id, labels('db'));
  peers.setNamedPorts(1000, [{ name: 'sql', protocol: 6, port: 5432 }]);
  peers.setNamedPorts(1001, [{ name: 'sql', protocol: 6, port: 3306 }]);
  const sql = { kind: 'named', protocol: 6, name: 'sql' } as const;
  const to = (peer: Rule['peers'][number]) =>
    rule({ direction: 'egress', path: 'spec.egress[0]', peers: [peer], ports: [sql] });
  const clause = { ingressEnforced: false, egressEnforced: true };
  subjects.setPolicy('p', policyOf('p', { ...clause, rules: [to({ kind: 'any' })] }));
  t.same(texts('server', 'egress'), ['allow 1000 6/5432', 'allow 1001 6/3306']);
  peers.setNamedPorts(1002, [{ name: 'sql', protocol: 6, port: 1 }]);
  peers.setNamedPorts(1000, undefined);
  subjects.update();
  t.same(texts('server', 'egress').sort(), ['allow 1001 6/3306', 'allow 1002 6/1']);
  const db = to({ kind: 'selector', selector: app('db') });
  subjects.setPolicy('p', policyOf('p', { ...clause, rules: [db] }));
  subjects.prepare();
  subjects.commit(0);
  t.same(texts('server', 'egress').sort(), ['allow 1001 6/3306', 'allow 1002 6/1']);
  t.equal(
    subject('server').rows.rulesOf('egress', 1001, 0).length,
    0,
    'no rule is as wide as that',
  );
});
