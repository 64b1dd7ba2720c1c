import { test } from 'tap';
import { parse } from 'yaml';
import { createLogger } from '../../mesh/runtime/log.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseWorld, readCase } from '../policy/testing/corpus.ts';
import { corpusView } from '../policy/testing/corpus-view.ts';
import { answerPolicies, type PolicySources } from './policy-requests.ts';

const WORLD = parseWorld(`
namespaces: { demo: {} }
endpoints:
  server: { cluster: alpha, namespace: demo, labels: { app: server } }
  client: { cluster: alpha, namespace: demo, labels: { app: client } }
nodes: { alpha-1: { cluster: alpha, labels: {} } }
outside: {}
`);
const POLICY = parse(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: demo }
spec:
  podSelector: { matchLabels: { app: server } }
  ingress: [{ ports: [{ port: 80 }] }]
`);

function sourcesOf(setAudit: PolicySources['setAudit'] = () => true): PolicySources {
  const raw = {
    name: 'x',
    page: 'kubernetes.io/docs/x',
    policies: [POLICY],
    expect: 'client server tcp/80 allow',
  };
  const view = corpusView(readCase(raw, WORLD), 'alpha');
  return {
    view: () => view,
    readOptions: { clusterName: parseClusterName('alpha'), defaultLocalCluster: true },
    setAudit,
    logger: createLogger('test', { level: 'silent' }),
  };
}

function ask(method: string, path: string, body: unknown = '', sources = sourcesOf()) {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const url = new URL(path, 'http://agent');
  return answerPolicies({ method, url, body: async () => text }, sources);
}

test('questions about policies are answered, and wrong ones told why they are wrong', async (t) => {
  t.match(await ask('GET', '/v1/policies/node'), {
    status: 200,
    body: { cluster: 'alpha', node: 'alpha-1' },
  });
  t.match(await ask('GET', '/v1/policies'), {
    body: {
      mode: 'default',
      policies: [
        { policy: 'NetworkPolicy demo/web', endpoints: ['demo/server'], file: 'policies.yaml' },
      ],
    },
  });
  t.match(await ask('GET', '/v1/policies/endpoints?endpoint=demo/server'), {
    body: [
      { pod: 'demo/server', ingressEnforced: true, entries: [{ port: '80/TCP', identity: 0 }] },
    ],
  });
  const wrong: [string, string, unknown, number, RegExp][] = [
    ['POST', '/v1/policies', '', 405, /cannot POST \/v1\/policies: expected GET/],
    ['GET', '/v1/policies/trace', '', 405, /expected POST/],
    ['GET', '/v1/policies/resolve?party=', '', 400, /cannot tell whom "" means/],
    ['GET', '/v1/policies/endpoints?endpoint=app=x', '', 400, /expected NAMESPACE\/NAME/],
    ['POST', '/v1/policies/trace', '{', 400, /cannot read the question/],
    ['POST', '/v1/policies/trace', { questions: [{ port: 1 }] }, 400, /cannot read the question/],
    [
      'POST',
      '/v1/policies/simulate',
      { manifests: [], deleted: ['x'], flows: [], withPairs: true },
      400,
      /no policy of that name/,
    ],
    [
      'POST',
      '/v1/policies/simulate',
      { manifests: [{ kind: 'Pod' }] },
      400,
      /cannot read the question/,
    ],
    [
      'PUT',
      '/v1/policies/audit',
      { endpointId: 'x', audit: true },
      400,
      /cannot read the question/,
    ],
  ];
  for (const [method, path, body, status, error] of wrong) {
    t.match(await ask(method, path, body), { status, body: { error } }, `${method} ${path}`);
  }
});

test('audit mode is set where there is such an endpoint', async (t) => {
  const set: [number, boolean][] = [];
  const sources = sourcesOf((endpointId, on) => {
    set.push([endpointId, on]);
    return endpointId === 1;
  });
  const put = (endpointId: number) =>
    ask('PUT', '/v1/policies/audit', { endpointId, audit: true }, sources);
  t.match(await put(1), { status: 200, body: { endpointId: 1, audit: true } });
  t.match(await put(9), { status: 404, body: { error: /no endpoint 9/ } });
  t.same(set, [
    [1, true],
    [9, true],
  ]);
  const failing = sourcesOf(() => {
    throw new Error('the kernel says no');
  });
  await t.rejects(ask('PUT', '/v1/policies/audit', { endpointId: 1, audit: true }, failing), {
    message: 'the kernel says no',
  });
});
