import { test } from 'tap';
import { execute } from '../lab/command.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { parseTopology } from '../lab/topology.ts';
import { openMesh, urlOf } from './mesh.ts';

const skip = labSkipReason(process.env);
const NODE_PORT = 30_080;
const CURL = ['curl', '--silent', '--max-time', '5', '--header', 'Connection: close'];
const CLUSTER_IPS = {
  alpha: ['10.101.200.1', 'fd00:101::2:1'],
  beta: ['10.102.200.1', 'fd00:102::2:1'],
} as const;

/** The same global Service in both clusters. */
function door(cluster: 'alpha' | 'beta') {
  return {
    cluster,
    object: {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: {
        name: 'door',
        namespace: 'shop',
        annotations: { 'service.cilium.io/global': 'true' },
      },
      spec: {
        type: 'NodePort',
        clusterIPs: CLUSTER_IPS[cluster],
        selector: { app: 'web' },
        ports: [{ name: 'http', port: 80, targetPort: 8080, nodePort: NODE_PORT, protocol: 'TCP' }],
      },
    },
  };
}

const server = (name: string, node: string) => ({
  name,
  node,
  namespace: 'shop',
  labels: { app: 'web' },
  role: 'server',
  ports: [{ name: 'http', port: 8080 }],
});

const TOPOLOGY = parseTopology({
  clusters: [
    {
      name: 'alpha',
      id: 1,
      podCidrs: ['10.1.0.0/16', 'fd00:10:1::/48'],
      serviceCidrs: ['10.101.0.0/16', 'fd00:101::/96'],
      nodes: ['alpha-1', 'alpha-2'],
    },
    {
      name: 'beta',
      id: 2,
      podCidrs: ['10.2.0.0/16', 'fd00:10:2::/48'],
      serviceCidrs: ['10.102.0.0/16', 'fd00:102::/96'],
      nodes: ['beta-1'],
    },
  ],
  pods: [
    { name: 'client', node: 'alpha-1', namespace: 'shop', labels: { app: 'client' } },
    server('web-alpha', 'alpha-1'),
    server('web-beta', 'beta-1'),
  ],
  manifests: [door('alpha'), door('beta')],
});

test('services packet by packet, to backends of two clusters', {
  skip,
  timeout: 240_000,
}, async (t) => {
  await using lab = await openMesh(TOPOLOGY, { agentFlags: ['--kube-proxy-replacement=true'] });
  await lab.waitFor('both backends on alpha-1', async () => {
    const rows = await lab.agent('alpha-1').map('services');
    const wanted = rows.filter(({ port }) => port === NODE_PORT || port === 80);
    return (
      wanted.length === 4 &&
      wanted.every(({ backends }) => Array.isArray(backends) && backends.length === 2)
    );
  });
  const client = lab.pod('client');
  for (const [index, family] of ([4, 6] as const).entries()) {
    const clusterIp = CLUSTER_IPS.alpha[index] ?? '';
    const node = lab.node('alpha-1').addresses[index] ?? '';
    // In the pod's network, but not in the cgroup that the agent translates for.
    const inside = await call(lab, client.netns, urlOf(clusterIp, 80));
    t.same(
      [...inside.keys()].sort(),
      [`web-alpha ${client.ip(family)}`, `web-beta ${client.ip(family)}`],
      `a pod over IPv${family}`,
    );
    const outside = await call(lab, lab.node('alpha-2').namespace, urlOf(node, NODE_PORT));
    const caller = lab.node('alpha-2').addresses[index] ?? '';
    t.same(
      [...outside.keys()].sort(),
      [`web-alpha ${caller}`, `web-beta ${node}`],
      `from outside over IPv${family}: its own address to the pod here, the address of the node to the other cluster`,
    );
  }
});

/** Forty calls; the answers and how often they came. */
async function call(lab: Lab, netns: string, url: string): Promise<Map<string, number>> {
  const { stdout } = await execute([...CURL, `${url}?[1-40]`], { netns, timeoutMs: 120_000 });
  const answers = new Map<string, number>();
  for (const line of stdout.split('\n').filter(Boolean)) {
    answers.set(line, (answers.get(line) ?? 0) + 1);
  }
  const total = [...answers.values()].reduce((sum, count) => sum + count, 0);
  if (total !== 40) throw new Error(`${40 - total} of 40 calls of lab ${lab.name} failed`);
  return answers;
}
