/**
 * Policies that the real kubectl has written, enforced by an agent, and how they stand written back to the real API server
 * (issue E): what the agent counts, the registry gathers and the apiserver writes.
 */
import { test } from 'tap';
import { z } from 'zod';
import { labSkipReason } from '../lab/preflight.ts';
import { openSettledLab } from '../lab/settled-lab.ts';
import { parseTopology } from '../lab/topology.ts';
import { needKube } from '../peers/kube-programs.ts';
import { curl, urlOf } from './mesh.ts';

const skip = labSkipReason(process.env) || needKube(process.env).skip;

const pod = (name: string) => ({
  name,
  node: 'alpha-1',
  namespace: 'demo',
  labels: { app: name },
  role: 'server' as const,
  ports: [{ name: 'http', port: 8080 }],
});
const topology = parseTopology({
  clusters: [
    {
      name: 'alpha',
      id: 1,
      podCidrs: ['10.1.0.0/16', 'fd00:10:1::/48'],
      serviceCidrs: ['10.101.0.0/16', 'fd00:101::/112'],
      nodes: ['alpha-1'],
      namespaces: { demo: {} },
      objects: 'kubernetes',
    },
  ],
  pods: [pod('server'), pod('client'), pod('other')],
});

const fromClients = { fromEndpoints: [{ matchLabels: { app: 'client' } }] };
const port = { port: '8080', protocol: 'TCP' };
function ciliumPolicy(name: string, ingress: readonly object[]) {
  return {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name, namespace: 'demo' },
    spec: { endpointSelector: { matchLabels: { app: 'server' } }, ingress },
  };
}
const POLICIES = {
  apiVersion: 'v1',
  kind: 'List',
  items: [
    ciliumPolicy('whole', [{ ...fromClients, toPorts: [{ ports: [port] }] }]),
    // What is broken allows nothing, and says why.
    ciliumPolicy('broken', [
      {
        fromEndpoints: [{ matchLabels: { app: 'other' } }],
        toPorts: [{ ports: [port], rules: { http: [{ method: 'GET' }] } }],
      },
    ]),
    {
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { name: 'closed', namespace: 'demo' },
      spec: { podSelector: { matchLabels: { app: 'client' } }, policyTypes: ['Ingress'] },
    },
  ],
};

const policySchema = z.object({
  status: z
    .object({
      conditions: z.array(
        z.object({ type: z.string(), status: z.string(), reason: z.string(), message: z.string() }),
      ),
    })
    .optional(),
});

test('how policies stand comes back to whoever wrote them', {
  skip,
  timeout: 240_000,
}, async (t) => {
  await using lab = await openSettledLab(topology, {
    apiserverFlags: ['--enable-policy-status'],
    kubernetesFiles: ['rbac-controllers.yaml'],
  });
  const { kubectl } = lab.kubernetes('alpha');
  await kubectl(['apply', '-f', '-'], { input: JSON.stringify(POLICIES) });
  const conditionsOf = async (name: string) => {
    const where = ['get', 'ciliumnetworkpolicy', name, '--namespace=demo', '--output=json'];
    const { status } = policySchema.parse(JSON.parse(await kubectl(where)));
    return new Map((status?.conditions ?? []).map(({ type, ...rest }) => [type, rest] as const));
  };
  const waitForConditions = (name: string, text: RegExp) =>
    lab.waitFor(
      `conditions of ${name}`,
      async () => text.test((await conditionsOf(name)).get('Enforced')?.message ?? ''),
      { timeoutMs: 60_000, intervalMs: 500 },
    );

  await waitForConditions('whole', /^generation 1: 1 endpoints on 1 of 1 nodes, [1-9]\d* entries$/);
  const whole = await conditionsOf('whole');
  t.match(whole.get('Valid'), { status: 'True', message: 'Policy validation succeeded' });
  t.match(whole.get('Enforced'), { status: 'True', reason: 'Enforced' });

  await waitForConditions('broken', /^generation 1: 1 endpoints on 1 of 1 nodes, 0 entries$/);
  const broken = await conditionsOf('broken');
  t.match(broken.get('Valid'), {
    status: 'False',
    reason: 'NotEnforcedAsWritten',
    message: /spec\.ingress\[0\]\.toPorts\[0\]\.rules http: rules of layer 7 are not supported/,
  });
  t.match(broken.get('Enforced'), { status: 'False', reason: 'NotEnforcedAsWritten' });

  const listed = await lab.agent('alpha-1').status();
  const counts = Object.fromEntries(
    listed.policies.map(({ policy, endpoints }) => [policy, endpoints.length]),
  );
  t.same(counts, {
    'CiliumNetworkPolicy demo/whole': 1,
    'CiliumNetworkPolicy demo/broken': 1,
    'NetworkPolicy demo/closed': 1,
  });
  const call = async (from: string, to: string) =>
    (await curl(lab, from, urlOf(lab.pod(to).ip(), 8080))).stdout;
  const [allowed, refused, closed] = await Promise.all([
    call('client', 'server'),
    call('other', 'server'),
    call('server', 'client'),
  ]);
  t.match(allowed, /^server /, 'what is whole is enforced');
  t.equal(refused, '', 'what is broken allows nothing');
  t.equal(closed, '', 'a NetworkPolicy is enforced, too');
});
