import { test } from 'tap';
import { DefinitionGone, explainFailure } from './explain-failure.ts';
import { errorOfAnswer, KubernetesError } from './kubernetes-error.ts';
import { RESOURCES, resourceName, resourcePath } from './resource.ts';

test('explainFailure() names verb, kind, role and command', async (t) => {
  const forbidden = errorOfAnswer('GET /api/v1/pods', {
    status: 403,
    body: {
      kind: 'Status',
      reason: 'Forbidden',
      message:
        'pods is forbidden: User "system:serviceaccount:isthmus-system:apiserver" cannot watch resource "pods" in API group "" at the cluster scope',
    },
  });
  t.same(explainFailure(forbidden, { resource: RESOURCES.pods, verb: 'watch', role: 'reader' }), {
    state: 'forbidden',
    reason:
      'system:serviceaccount:isthmus-system:apiserver may not watch pods; bind the ClusterRole reader: kubectl create clusterrolebinding reader --clusterrole=reader --serviceaccount=isthmus-system:apiserver; then check: kubectl auth can-i watch pods --all-namespaces --as=system:serviceaccount:isthmus-system:apiserver',
  });
  const person = new KubernetesError('forbidden', 'x: User "jane" cannot', { status: 403 });
  t.match(
    explainFailure(person, { resource: RESOURCES.pods, verb: 'list', role: 'reader' }).reason,
    '--clusterrole=reader --user=jane',
  );
});

test('explainFailure() tells a missing definition from other failures', async (t) => {
  const attempted = { resource: RESOURCES.ciliumNodes, verb: 'list' } as const;
  const cases: readonly [Error, string, RegExp][] = [
    [
      new KubernetesError('not-found', 'x', { status: 404 }),
      'absent',
      /does not know CiliumNode \(cilium\.io\/v2\).*kubectl get crd ciliumnodes\.cilium\.io/,
    ],
    [new DefinitionGone(RESOURCES.ciliumNodes, 'deleting'), 'absent', /is being deleted/],
    [new KubernetesError('unauthorized', 'x', { status: 401 }), 'unauthorized', /credentials/],
    [new KubernetesError('unavailable', 'GET /x: refused'), 'failing', /cannot list .*refused/],
    [new Error('a fault'), 'failing', /a fault/],
  ];
  for (const [error, state, reason] of cases) {
    const failure = explainFailure(error, attempted);
    t.equal(failure.state, state);
    t.match(failure.reason, reason);
  }
});

test('errorOfAnswer() says what a caller can do', async (t) => {
  const cases: readonly [number, string | undefined, string, boolean][] = [
    [401, undefined, 'unauthorized', false],
    [403, 'Forbidden', 'forbidden', false],
    [404, 'NotFound', 'not-found', false],
    [409, 'AlreadyExists', 'conflict', false],
    [410, 'Expired', 'gone', true],
    [410, 'Gone', 'gone', true],
    [422, 'Invalid', 'invalid', false],
    [415, undefined, 'invalid', false],
    [429, 'TooManyRequests', 'too-many-requests', true],
    [500, 'InternalError', 'unavailable', true],
    [503, undefined, 'unavailable', true],
    [504, 'Timeout', 'timeout', true],
  ];
  for (const [status, reason, code, retryable] of cases) {
    const error = errorOfAnswer('GET /x', { status, body: { reason, message: 'why' } });
    t.match(error, { code, retryable, status, reason: reason ?? '' });
    t.match(error.message, `GET /x: ${status} why`);
  }
  const wait = (retryAfter: string | undefined, body: unknown = '') =>
    errorOfAnswer('GET /x', { status: 429, body, retryAfter }).retryAfterMs;
  t.equal(wait('3'), 3000);
  t.equal(wait(undefined, { details: { retryAfterSeconds: 2 } }), 2000);
  t.equal(wait('Wed, 21 Oct 2026 07:28:00 GMT'), undefined);
  t.match(
    errorOfAnswer('GET /x', { status: 502, body: '<html>bad gateway</html>' }).message,
    'bad gateway',
  );
});

test('resourcePath() leads to kinds, objects and their parts', async (t) => {
  t.equal(resourcePath(RESOURCES.pods), '/api/v1/pods');
  t.equal(resourcePath(RESOURCES.nodes, { namespace: 'demo', name: 'n' }), '/api/v1/nodes/n');
  t.equal(
    resourcePath(RESOURCES.serviceExports, { namespace: 'a', name: 'b', subresource: 'status' }),
    '/apis/multicluster.x-k8s.io/v1alpha1/namespaces/a/serviceexports/b/status',
  );
  t.equal(resourcePath(RESOURCES.pods, { namespace: '../x' }), '/api/v1/namespaces/..%2Fx/pods');
  t.equal(resourceName(RESOURCES.endpointSlices), 'endpointslices.discovery.k8s.io');
  t.equal(resourceName(RESOURCES.pods), 'pods');
});
