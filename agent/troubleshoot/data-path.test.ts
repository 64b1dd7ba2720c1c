import { test } from 'tap';
import { parse } from 'yaml';
import { type DiagnosisStep, verdictOf } from '../../mesh/diagnosis/diagnosis.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress as ip, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { FrontendEntry, IpcacheEntry } from '../datapath/desired.ts';
import type { EndpointRecord } from '../endpoints/record.ts';
import type { BackendAccount, ServiceAccount } from '../merge/service-account.ts';
import { parseWorld, readCase } from '../policy/testing/corpus.ts';
import { addressesOf, corpusView, identityOf } from '../policy/testing/corpus-view.ts';
import { parsePortQuestion } from '../policy/trace-port.ts';
import { createMemoryDatapath } from '../state/memory-datapath.ts';
import type { TcpOutcome } from '../withdrawal/probe.ts';
import { createDataPath, type DataPathSources, type PathQuestion } from './data-path.ts';

const { signal } = new AbortController();
const WORLD = parseWorld(`
namespaces: { shop: {} }
endpoints:
  client: { cluster: alpha, namespace: shop, labels: { app: client } }
  web: { cluster: beta, namespace: shop, labels: { app: web } }
nodes: { alpha-1: { cluster: alpha, labels: {} }, beta-1: { cluster: beta, labels: {} } }
outside: {}
`);
const NODE = ip('192.0.2.2');
const CLUSTER_IP = ip('10.101.0.7');

/** Closes every way out of `client` but one to port 53. */
const CLOSED = parse(`
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: closed, namespace: shop }
spec:
  endpointSelector: { matchLabels: { app: client } }
  egress: [{ toPorts: [{ ports: [{ port: "53" }] }] }]
`);

interface Given {
  readonly question?: Partial<PathQuestion>;
  readonly policies?: readonly unknown[];
  /** Cluster of the agent. Default: alpha, where the client is. */
  readonly at?: 'alpha' | 'beta';
  /** What becomes of calls, by address; others are accepted. */
  readonly calls?: Readonly<Record<string, TcpOutcome>>;
  readonly echoes?: boolean;
  /** Backends of the wanted frontend. Default: the peer's. */
  readonly frontends?: readonly FrontendEntry[];
  /** What the kernel has of it. Default: the same. */
  readonly kernel?: readonly FrontendEntry[];
  readonly account?: Partial<ServiceAccount> | 'unknown';
  readonly withoutPods?: boolean;
}

function frontend(backends: readonly [address: IpAddress, clusterId: number][]): FrontendEntry {
  return {
    address: CLUSTER_IP,
    port: 80,
    protocol: 'TCP',
    scope: 'internal',
    isExternal: false,
    backends: backends.map(([address, clusterId]) => ({
      address,
      port: 8080,
      protocol: 'TCP',
      clusterId,
    })),
    draining: [],
    affinitySeconds: 0,
    algorithm: 'random',
    service: 'shop/web',
  };
}

const backend = (changes: Partial<BackendAccount>): BackendAccount => ({
  cluster: 'beta',
  address: ip('10.2.0.6'),
  portName: '',
  state: 'unused',
  reason: '',
  node: '',
  zone: '',
  ...changes,
});

async function look(given: Given) {
  const { at = 'alpha', policies = [], calls = {}, echoes = true, question = {} } = given;
  const raw = {
    name: 'x',
    page: 'kubernetes.io/docs/x',
    policies,
    expect: 'client web tcp/80 allow',
  };
  const corpus = readCase(raw, WORLD);
  const [peer, clusterId] = at === 'alpha' ? (['beta', 2] as const) : (['alpha', 1] as const);
  const [own, other] = at === 'alpha' ? (['client', 'web'] as const) : (['web', 'client'] as const);
  const [remote = NODE] = addressesOf(corpus, other);
  const rows: IpcacheEntry[] = [
    {
      prefix: parseIpPrefix(`${remote}/32`),
      identity: parseNumericIdentity(identityOf(corpus, other)),
      tunnelEndpoint: NODE,
      clusterId,
    },
  ];
  const record: EndpointRecord = {
    endpointId: 1,
    containerId: 'c',
    ifName: 'eth0',
    network: 'mesh',
    netns: '/run/netns/x',
    addresses: addressesOf(corpus, own),
    hostInterface: 'veth',
    ifindex: 7,
    mac: '02:00:00:00:00:01',
    podNamespace: 'shop',
    podName: own,
    origin: 'runtime',
  };
  const wanted = given.frontends ?? [frontend([[remote, clusterId]])];
  const datapath = createMemoryDatapath();
  datapath.services.apply({ upserts: given.kernel ?? wanted, deletes: [] });
  const account: ServiceAccount = {
    namespace: 'shop',
    name: 'web',
    exists: true,
    type: 'ClusterIP',
    global: true,
    shared: true,
    affinity: 'none',
    notTranslated: '',
    frontends: [],
    clusters: [],
    backends: [],
    ...(given.account === 'unknown' ? {} : given.account),
  };
  const called: string[] = [];
  const sources: DataPathSources = {
    nodesOf: () => [NODE],
    rows: () => rows,
    records: () => (given.withoutPods === true ? [] : [record]),
    view: () => corpusView(corpus, at),
    probe: async () => 'answered',
    echo: async (_address, { netns }) => (netns === undefined || echoes ? 'answered' : 'silent'),
    async call(targets, { netns }) {
      called.push(...targets.map(({ address, port }) => `${netns ?? 'node'} ${address} ${port}`));
      return targets.map(({ address }) => calls[address] ?? 'accepted');
    },
    accountOf: () => (given.account === 'unknown' ? undefined : account),
    frontends: () => wanted,
    kernel: datapath.services,
    clock: systemClock,
  };
  const found = await createDataPath(sources)(peer, {
    clusterId,
    mtu: 1450,
    question: { service: undefined, from: undefined, to: undefined, port: undefined, ...question },
    signal,
  });
  return { ...found, called, verdict: verdictOf(peer, found.steps) };
}

const outline = (steps: readonly DiagnosisStep[]): string[] =>
  steps.map(({ step, outcome }) => `${step} ${outcome}`);

test('a path that works is looked at to its end', async (t) => {
  const { steps, called, pair, verdict } = await look({});
  t.same(outline(steps), [
    'underlay passed',
    'tunnel passed',
    'mtu passed',
    'pod passed',
    'service passed',
    'call passed',
    'policy passed',
    'peer-policy skipped',
  ]);
  t.match(verdict, /works as far as was looked \(not looked at: peer-policy\)/);
  t.same(called, ['/run/netns/x 10.101.0.7 80', '/run/netns/x 10.2.0.6 8080']);
  t.same(pair, { from: '10.1.0.5', to: '10.2.0.6', port: '8080/TCP', isAsked: false });
  t.match(
    steps.at(-1)?.seen[0],
    /cluster beta decides about ingress .* run `clustermesh policy trace --from 10\.1\.0\.5 --to 10\.2\.0\.6 --port 8080\/TCP` on one of its nodes/,
  );
});

test('what keeps calls to a Service from a peer is named', async (t) => {
  const service = { service: 'shop/web' };
  const verdict = async (given: Given): Promise<string> =>
    (await look({ question: service, ...given })).verdict;
  const nothing = { frontends: [frontend([])] };
  t.match(
    await verdict({ ...nothing, account: 'unknown' }),
    /^Service shop\/web does not work because neither this cluster nor a peer has it \(service-not-translated\)/,
  );
  t.match(
    await verdict({
      frontends: [],
      account: { notTranslated: 'it is not global: this node leaves it to kube-proxy' },
    }),
    /it is not global.* \(service-not-translated\)/,
  );
  t.match(
    await verdict({ ...nothing, account: { backends: [] } }),
    /no cluster has a backend that is used: cluster beta offers no backend of it \(service-no-backend\)/,
  );
  t.match(
    await verdict({
      ...nothing,
      account: { backends: [backend({ state: 'draining', reason: 'it is about to end' })] },
    }),
    /all backends are about to end: .*it is about to end \(service-no-backend\)/,
  );
  t.match(
    await verdict({
      frontends: [frontend([[ip('10.1.0.9'), 1]])],
      account: {
        affinity: 'local',
        backends: [
          backend({ cluster: 'alpha', state: 'used' }),
          backend({ state: 'standby', reason: 'affinity is local: used when nothing else is' }),
        ],
      },
    }),
    /^cluster beta works, but of Service shop\/web: none of its 1 backends in cluster beta is used: affinity is local.*\(service-peer-unused\)/,
  );
  t.match(
    await verdict({ kernel: [] }),
    /the kernel does not translate 10\.101\.0\.7 80\/TCP, as it should \(kernel-differs\)/,
  );
  t.match(
    await verdict({ kernel: [frontend([])] }),
    /the kernel does not know backends 10\.2\.0\.6 .*\(kernel-differs\)/,
  );
  t.match(
    await verdict({ calls: { '10.2.0.6': 'refused' } }),
    /10\.2\.0\.6 8080 of cluster beta refuses the connection: nothing listens there \(service-refused\)/,
  );
  t.match(
    await verdict({ calls: { '10.2.0.6': 'silent' } }),
    /nothing comes back from 10\.2\.0\.6 8080 of cluster beta, policies here allow it.*\(service-silent\)/,
  );
  t.match(
    await verdict({ calls: { '10.101.0.7': 'silent' } }),
    /its address 10\.101\.0\.7 80 does not answer, and its backends of cluster beta do.*\(service-silent\)/,
  );
  t.match(
    await verdict({ calls: { '10.2.0.6': 'silent', '10.101.0.7': 'silent' }, policies: [CLOSED] }),
    /^traffic from 10\.1\.0\.5 to 10\.2\.0\.6 8080\/TCP does not work because policies of cluster alpha deny egress .*closed by CiliumNetworkPolicy shop\/closed \(policy-denies\)/,
  );
});

test('what was not asked for is an example: it may be forbidden', async (t) => {
  const { steps, verdict } = await look({
    policies: [CLOSED],
    echoes: false,
    calls: { '10.2.0.6': 'silent' },
  });
  t.match(
    verdict,
    /^cluster beta works, but policies of cluster alpha deny egress .*8\/ICMP.*\(policy-denies\)/,
  );
  t.notOk(steps.some(({ outcome }) => outcome === 'failed'));
  const silent = await look({ echoes: false });
  t.match(
    silent.verdict,
    /^cluster beta works, but nothing comes back to shop\/client .*those of cluster beta may forbid it.*\(pod-silent\)/,
  );
  const alone = await look({ withoutPods: true });
  t.same(outline(alone.steps).slice(3), [
    'pod skipped',
    'service passed',
    'call passed',
    'policy skipped',
  ]);
  t.match(alone.called[0], /^node /);
});

test('a pair is judged as it is named, in both directions', async (t) => {
  const named = { from: 'shop/client', to: '10.2.0.6', port: parsePortQuestion('8080/TCP') };
  const fine = await look({ question: named });
  t.match(fine.pair, { from: '10.1.0.5', to: '10.2.0.6', port: '8080/TCP', isAsked: true });
  t.ok(fine.called.includes('/run/netns/x 10.2.0.6 8080'));
  const denied = await look({
    question: named,
    policies: [CLOSED],
    calls: { '10.2.0.6': 'silent' },
  });
  t.match(
    denied.verdict,
    /does not work because policies of cluster alpha deny egress .*\(policy-denies\)/,
  );
  t.equal(denied.steps.filter(({ problem }) => problem?.id === 'policy-denies').length, 1);
  const elsewhere = await look({ question: { from: '10.1.0.5', to: 'shop/web' }, at: 'beta' });
  t.match(
    elsewhere.steps.find(({ step }) => step === 'pod'),
    { outcome: 'skipped', seen: [/goes from there/] },
  );
  t.match(
    elsewhere.steps.find(({ step }) => step === 'policy')?.seen[0],
    /ingress at beta is allowed, no policy closes this direction/,
  );
  const unknown = await look({ question: { from: 'shop/nobody', to: '10.2.0.6' } });
  t.match(
    unknown.steps.find(({ step }) => step === 'policy'),
    { outcome: 'skipped', seen: [/knows nobody called shop\/nobody/] },
  );
  const nobodyCalls = await look({ question: { from: 'shop/nobody', service: 'shop/web' } });
  t.ok(outline(nobodyCalls.steps).includes('call skipped'));
  t.same(nobodyCalls.called, [], 'nobody else calls in its place');
  const strangers = await look({ question: { from: 'shop/client', to: '203.0.113.9' } });
  t.match(
    strangers.steps.find(({ step }) => step === 'pod')?.seen[0],
    /are not one here and one of cluster beta/,
  );
});
