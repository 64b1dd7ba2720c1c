import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { parseTopology } from '../lab/topology.ts';
import { askUdp, curl, curlMany, openMesh, urlOf, waitUntilReady } from './mesh.ts';

const CONNECTED_CLIENT = fileURLToPath(new URL('../lab/udp-connected/main.js', import.meta.url));

const skip = labSkipReason(process.env);
const NODES = ['alpha-1', 'alpha-2'] as const;
const WEB_PORTS = [
  { name: 'http', port: 8080 },
  { name: 'dns', port: 5353, protocol: 'UDP' as const },
];
/** Each request over a connection of its own. */
const CURL = ['curl', '--silent', '--max-time', '5', '--header', 'Connection: close'];
const OUTER = ['192.0.2.200', '2001:db8::200'] as const;

/** A Service over both families whose backends are the pods of that label, unless it has slices. */
function service(name: string, number: number, spec: Record<string, unknown>) {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'shop' },
    spec: {
      type: 'ClusterIP',
      clusterIPs: clusterIps(number),
      selector: { app: 'web' },
      ports: [
        { name: 'http', port: 80, targetPort: 8080, protocol: 'TCP' },
        { name: 'dns', port: 53, targetPort: 5353, protocol: 'UDP' },
      ],
      ...spec,
    },
  };
}

function clusterIps(number: number): readonly [string, string] {
  return [`10.101.200.${number}`, `fd00:101::2:${number}`];
}

/** Ports of `service`, with these on the nodes. */
function nodePorts(http: number, dns: number): object[] {
  return [
    { name: 'http', port: 80, targetPort: 8080, nodePort: http, protocol: 'TCP' },
    { name: 'dns', port: 53, targetPort: 5353, nodePort: dns, protocol: 'UDP' },
  ];
}

const NEAR = service('near', 1, { internalTrafficPolicy: 'Local' });
const STICKY = service('sticky', 2, {
  sessionAffinity: 'ClientIP',
  sessionAffinityConfig: { clientIP: { timeoutSeconds: 600 } },
});
const OPEN = service('open', 3, {
  type: 'NodePort',
  externalIPs: OUTER,
  ports: nodePorts(30_080, 30_053),
});
/** On each node its own backend is preferred, also at the node's port. */
const HERE = service('here', 5, {
  type: 'NodePort',
  trafficDistribution: 'PreferSameNode',
  externalIPs: OUTER.map((address) => address.replace(/200$/, '201')),
  ports: nodePorts(30_081, 30_054),
});
/** From outside each node offers its own backend alone. */
const OUTSIDE = service('outside', 6, {
  type: 'NodePort',
  externalTrafficPolicy: 'Local',
  ports: nodePorts(30_082, 30_055),
});
const LEAVING = service('leaving', 4, { selector: {} });

const TOPOLOGY = parseTopology({
  clusters: [
    {
      name: 'alpha',
      id: 1,
      podCidrs: ['10.1.0.0/16', 'fd00:10:1::/48'],
      serviceCidrs: ['10.101.0.0/16', 'fd00:101::/96'],
      nodes: [...NODES],
    },
  ],
  pods: [
    { name: 'client', node: 'alpha-1', namespace: 'shop', labels: { app: 'client' } },
    ...(['web-1', 'web-2'] as const).map((name, index) => ({
      name,
      node: NODES[index],
      namespace: 'shop',
      labels: { app: 'web' },
      role: 'server',
      ports: WEB_PORTS,
    })),
  ],
  manifests: [NEAR, STICKY, OPEN, LEAVING, HERE, OUTSIDE].map((object) => ({
    cluster: 'alpha',
    object,
  })),
});

test('kinds of Services, without kube-proxy', { skip, timeout: 240_000 }, async (t) => {
  await using lab = await openMesh(TOPOLOGY, { agentFlags: ['--kube-proxy-replacement=true'] });
  await writeSlices(lab, []);
  for (const node of NODES) {
    for (const number of [2, 3, 4, 6]) await waitForBackends(lab, node, { number, wanted: 2 });
    for (const number of [1, 5]) await waitForBackends(lab, node, { number, wanted: 1 });
  }

  await t.test('the agent says which Services it translates', async (t) => {
    const { services } = await lab.agent('alpha-1').status();
    t.equal(services.translated, 'all (--kube-proxy-replacement is given)');
  });

  await t.test(
    'internalTrafficPolicy Local: who is on the node answers, nobody else',
    async (t) => {
      for (const family of [4, 6] as const) {
        const url = urlOf(ipOf(1, family), 80);
        const { byPod, failed } = await curlMany(lab, 'client', { url, times: 20 });
        t.same([byPod, failed], [{ 'web-1': 20 }, 0], `from a pod over IPv${family}`);
        const argv = [...CURL, `${url}?[1-5]`];
        const { stdout } = await lab.execOnNode('alpha-2', argv);
        t.same(
          namesIn(stdout),
          ['web-2', 'web-2', 'web-2', 'web-2', 'web-2'],
          'from the other node',
        );
        t.match(await askUdp(lab, 'client', ipOf(1, family), 53), /^web-1 /, 'UDP');
      }
    },
  );

  await t.test('sessionAffinity ClientIP: a client keeps its backend', async (t) => {
    for (const family of [4, 6] as const) {
      const url = urlOf(ipOf(2, family), 80);
      const { byPod, failed } = await curlMany(lab, 'client', { url, times: 40 });
      t.equal(failed, 0);
      t.equal(Object.keys(byPod).length, 1, `one of two over IPv${family}`);
    }
    const { byPod } = await curlMany(lab, 'client', { url: urlOf(ipOf(3, 4), 80), times: 40 });
    t.equal(Object.keys(byPod).length, 2, 'without affinity both answer');
  });

  await t.test('node ports and external addresses, for pods and for the node', async (t) => {
    for (const [index, family] of [4, 6].entries()) {
      const own = lab.node('alpha-1').addresses[index] ?? '';
      const outer = OUTER[index] ?? '';
      for (const [address, http, dns] of [
        [own, 30_080, 30_053],
        [outer, 80, 53],
      ] as const) {
        const { byPod, failed } = await curlMany(lab, 'client', {
          url: urlOf(address, http),
          times: 40,
        });
        t.same([Object.keys(byPod).sort(), failed], [['web-1', 'web-2'], 0], `IPv${family}, TCP`);
        t.match(await askUdp(lab, 'client', address, dns), /^web-[12] /, `IPv${family}, UDP`);
      }
      for (const [address, http] of [
        [own, 30_081],
        [outer.replace(/200$/, '201'), 80],
      ] as const) {
        const argv = [...CURL, `${urlOf(address, http)}?[1-5]`];
        const answers = namesIn((await lab.execOnNode('alpha-1', argv)).stdout);
        t.same(answers, ['web-1', 'web-1', 'web-1', 'web-1', 'web-1'], 'its own, from the node');
      }
    }
  });

  await t.test('externalTrafficPolicy Local: from outside a node offers its own', async (t) => {
    for (const [index, family] of [4, 6].entries()) {
      const address = lab.node('alpha-1').addresses[index] ?? '';
      const ask = async (port: number): Promise<string[]> => {
        const argv = [...CURL, `${urlOf(address, port)}?[1-20]`];
        return namesIn((await lab.execOnNode('alpha-2', argv)).stdout);
      };
      t.same(await ask(30_082), Array(20).fill('web-1'), `over IPv${family}`);
      const any = await ask(30_080);
      t.equal(any.length, 20, 'without it every call is answered, too');
      t.same([...new Set(any)].sort(), ['web-1', 'web-2'], `by both over IPv${family}`);
      const { byPod } = await curlMany(lab, 'client', { url: urlOf(address, 30_082), times: 40 });
      t.same(Object.keys(byPod).sort(), ['web-1', 'web-2'], 'clients on the node reach both');
    }
  });

  await t.test('a backend that is about to end gets nothing new and loses nothing', async (t) => {
    const url = urlOf(ipOf(4, 4), 80);
    await writeSlices(lab, ['web-2']);
    await waitForBackends(lab, 'alpha-1', { number: 4, wanted: 1 });
    const slow = curl(lab, 'client', urlOf(ipOf(4, 4), 80, '/slow?seconds=1'));
    // It stands: what follows must not end it.
    await lab.waitFor('the connection', async () => {
      const { stdout } = await lab.exec('client', ['ss', '-Htn', 'state', 'established']);
      return stdout.includes(':8080') || stdout.includes(':80');
    });
    await writeSlices(lab, ['web-1']);
    await waitForDraining(lab, 'alpha-1', { number: 4, address: lab.pod('web-1').ip() });
    const { byPod, failed } = await curlMany(lab, 'client', { url, times: 20 });
    t.same([byPod, failed], [{ 'web-2': 20 }, 0], 'new connections go elsewhere');
    const { code, stdout } = await slow;
    t.equal(code, 0);
    t.match(stdout, /^web-1 [\s\S]*end\n$/, 'the old one comes to its end');
    await writeSlices(lab, ['web-1', 'web-2']);
    await waitForBackends(lab, 'alpha-1', { number: 4, wanted: 2 });
    t.equal((await curlMany(lab, 'client', { url, times: 10 })).failed, 0, 'better than nobody');
  });

  await t.test('a connected UDP socket learns that its backend is gone', async (t) => {
    await writeSlices(lab, ['web-2']);
    await waitForBackends(lab, 'alpha-1', { number: 4, wanted: 1 });
    const client = lab.exec('client', [process.execPath, CONNECTED_CLIENT, ipOf(4, 4), '53']);
    await lab.waitFor('the socket', async () => {
      const { stdout } = await lab.exec('client', ['ss', '-Hun', 'state', 'established']);
      return stdout.includes(':5353');
    });
    await writeSlices(lab, [], ['web-2']);
    const { code, stdout } = await client;
    t.equal(code, 0);
    t.match(stdout, /^web-1\nerror E[A-Z]+\nweb-2\n$/, 'it is ended, and finds the other one');
    await writeSlices(lab, []);
    await waitForBackends(lab, 'alpha-1', { number: 4, wanted: 2 });
  });

  await t.test('a restart of the agent leaves every row as it is (promise 5)', async (t) => {
    const agent = lab.agent('alpha-1');
    const rows = async (): Promise<string[]> =>
      (await agent.map('services')).map((row) => JSON.stringify(row)).sort();
    const before = await rows();
    await agent.stop();
    await agent.start();
    t.same(await rows(), before, 'adopted');
    await waitUntilReady(lab, 'alpha-1');
    t.same(await rows(), before, 'and wanted again');
  });
});

/** Addresses by family, as the list of a Service has them. */
function ipOf(number: number, family: 4 | 6): string {
  return clusterIps(number)[family === 4 ? 0 : 1];
}

function namesIn(answers: string): string[] {
  return answers
    .split('\n')
    .filter(Boolean)
    .map((line) => line.split(' ')[0] ?? '');
}

/** What the EndpointSlice controller would write of `leaving`: both pods, of which some are about to end. */
async function writeSlices(
  lab: Lab,
  ending: readonly string[],
  present: readonly string[] = ['web-1', 'web-2'],
): Promise<void> {
  const { manifests } = lab.apiserver('alpha');
  await manifests.write({
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: 'leaving-1',
      namespace: 'shop',
      labels: { 'kubernetes.io/service-name': 'leaving' },
    },
    addressType: 'IPv4',
    endpoints: present.map((name) => ({
      addresses: [lab.pod(name).ip()],
      nodeName: lab.pod(name).node,
      conditions: ending.includes(name)
        ? { ready: false, serving: true, terminating: true }
        : { ready: true, serving: true, terminating: false },
    })),
    ports: [
      { name: 'http', port: 8080, protocol: 'TCP' },
      { name: 'dns', port: 5353, protocol: 'UDP' },
    ],
  });
}

/** Rows of the kernel of a Service's IPv4 HTTP port. */
async function rowsOf(lab: Lab, node: string, number: number): Promise<Record<string, unknown>[]> {
  const rows = await lab.agent(node).map('services');
  return rows.filter(({ address, port }) => address === ipOf(number, 4) && port === 80);
}

async function waitForBackends(
  lab: Lab,
  node: string,
  { number, wanted }: { readonly number: number; readonly wanted: number },
): Promise<void> {
  await lab.waitFor(`${wanted} backends of ${ipOf(number, 4)} on ${node}`, async () => {
    const [row] = await rowsOf(lab, node, number);
    return Array.isArray(row?.backends) && row.backends.length === wanted;
  });
}

async function waitForDraining(
  lab: Lab,
  node: string,
  { number, address }: { readonly number: number; readonly address: string },
): Promise<void> {
  await lab.waitFor(`${address} to drain on ${node}`, async () => {
    const [row] = await rowsOf(lab, node, number);
    return JSON.stringify(row?.draining ?? []).includes(address);
  });
}
