import { test } from 'tap';
import { isIdentityLabel } from './pod-labels.ts';

/** Cilium's documentation, "Limiting Identity-Relevant Labels": everything counts but these. */
const IGNORED = [
  'io.kubernetes.container.name',
  'kubernetes.io/hostname',
  'statefulset.kubernetes.io/pod-name',
  'apps.kubernetes.io/pod-index',
  'batch.kubernetes.io/job-completion-index',
  'batch.kubernetes.io/controller-uid',
  'beta.kubernetes.io/os',
  'failure-domain.beta.kubernetes.io/zone',
  'k8s.io/cluster-service',
  'pod-template-generation',
  'pod-template-hash',
  'controller-revision-hash',
  'annotation.io.kubernetes.x',
  'controller-uid',
  'etcd_node',
  'io.cilium.k8s.policy.cluster',
  'io.cilium.k8s.policy.serviceaccount',
  'io.cilium.k8s.namespace.labels.team',
];

const COUNTED = [
  'app',
  'app.kubernetes.io/name',
  'job-name',
  'batch.kubernetes.io/job-name',
  'k8s-app',
  'my.kubernetes.io/x',
  'team.annotation.x',
];

test('isIdentityLabel() leaves out what Cilium leaves out, and what pods may not say', async (t) => {
  for (const key of IGNORED) t.notOk(isIdentityLabel(key), key);
  for (const key of COUNTED) t.ok(isIdentityLabel(key), key);
});
