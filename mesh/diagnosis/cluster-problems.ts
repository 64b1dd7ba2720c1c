/** Problems of the own cluster: its apiserver, etcd, API server, certificates and agents. Pure. */
import type { ProblemKind } from './problem.ts';

/** By id. */
export const CLUSTER_PROBLEMS = {
  'apiserver-not-ready': {
    severity: 'error',
    symptom: 'the clustermesh-apiserver does not do its part',
    cause: 'something that it needs is missing',
    next: 'clustermesh status -o json',
    mend: 'The message says what is missing.',
  },
  'apiserver-note': {
    severity: 'warning',
    symptom: 'the clustermesh-apiserver has something to say',
    cause: 'see the message',
    next: 'clustermesh status -o json',
    mend: 'The message says what to do.',
  },
  'etcd-full': {
    severity: 'error',
    symptom: 'nothing can be published any more',
    cause:
      'etcd has raised its alarm NOSPACE: its data has reached the quota, and it takes no writes',
    next: 'etcdctl alarm list',
    mend: 'Take away what fills it (`clustermesh kv dump` lists all keys), compact and defragment, then disarm the alarm with `etcdctl alarm disarm`. An etcd of your own takes a larger --quota-backend-bytes.',
  },
  'etcd-unavailable': {
    severity: 'error',
    symptom: 'the own etcd does not answer',
    cause: 'the apiserver cannot read or write its etcd',
    next: 'clustermesh status --watch',
    mend: 'See the log of the apiserver; it starts its own etcd again by itself.',
  },
  'crd-missing': {
    severity: 'error',
    symptom: 'a kind of object cannot be read from the API server',
    cause:
      'its CustomResourceDefinition is missing or does not serve the version; what was published of that kind before stays',
    next: 'kubectl get crd {crd}',
    mend: 'Apply the definition again; publishing goes on by itself.',
  },
  'kubernetes-credentials': {
    severity: 'error',
    symptom: 'the API server does not believe the clustermesh-apiserver',
    cause:
      'the token or certificate that it shows has expired, was revoked, or is of another cluster; what was published before stays',
    next: 'kubectl -n kube-system get serviceaccount clustermesh-apiserver',
    mend: 'See that the service account is there, and give the program a new token or kubeconfig (in a pod: delete the pod). The file is read again by itself.',
  },
  'source-unreadable': {
    severity: 'error',
    symptom: 'the apiserver cannot read the objects that it publishes',
    cause:
      'the API server or the directory of manifests does not answer, or permissions are missing',
    next: 'kubectl auth can-i list {kind} --as=system:serviceaccount:kube-system:clustermesh-apiserver',
    mend: 'The message says what it was refused. What was published before stays.',
  },
  'certificate-expiring': {
    severity: 'warning',
    symptom: 'a certificate runs out soon',
    cause: 'less than a tenth of its life, or less than 14 days, are left',
    next: 'clustermesh pki renew',
    mend: 'Renew it; running programs take new files up by themselves.',
  },
  'certificate-expired': {
    severity: 'error',
    symptom: 'a certificate has run out',
    cause: 'it was not renewed in time',
    next: 'clustermesh pki renew',
    mend: 'Renew it; running programs take new files up by themselves.',
  },
  'clock-skew': {
    severity: 'error',
    symptom: 'clocks differ',
    cause: 'certificates are judged, and silence is measured, by clocks that must agree',
    next: 'timedatectl status',
    mend: 'Let NTP run on all hosts.',
  },
  'version-skew': {
    severity: 'warning',
    symptom: 'programs of one cluster have different versions',
    cause: 'an upgrade is on its way, or has stopped halfway',
    next: 'clustermesh status -o json',
    mend: 'Bring all to one version. Neighbouring versions work together.',
  },
  'agent-missing': {
    severity: 'error',
    symptom: 'a node has no agent',
    cause:
      'no agent of the node has ever told the registry anything, or the node was added without one',
    next: 'kubectl -n kube-system get pods -l k8s-app=clustermesh-agent --field-selector spec.nodeName={node} -o wide',
    mend: 'Start clustermesh-agent on it, or take the node away.',
  },
  'agent-silent': {
    severity: 'error',
    symptom: 'the agent of a node or machine is gone',
    cause: 'its session with the registry has ended and has not come back',
    next: 'kubectl -n kube-system logs -l k8s-app=clustermesh-agent --field-selector spec.nodeName={node} --tail=50',
    mend: 'See whether the host runs, and the agent on it.',
  },
  'agent-not-ready': {
    severity: 'error',
    symptom: 'an agent does not do its part',
    cause: 'something that it needs is missing',
    next: 'clustermesh status --socket-path /run/isthmus/agent.sock',
    mend: 'Run it on that node: the agent says what is missing.',
  },
  'agent-note': {
    severity: 'warning',
    symptom: 'an agent has something to say',
    cause: 'see the message',
    next: 'clustermesh status --socket-path /run/isthmus/agent.sock',
    mend: 'The message says what to do.',
  },
  'agent-unreachable': {
    severity: 'error',
    symptom: "nobody answers on an agent's socket",
    cause: 'clustermesh-agent does not run on this node, or listens on another socket',
    next: 'systemctl status clustermesh-agent',
    mend: 'Start it, or give --socket-path.',
  },
  'policy-errors': {
    severity: 'error',
    symptom: 'a policy is not enforced as written',
    cause: 'something of it is refused or cannot be written into the kernel',
    next: 'clustermesh policy list',
    mend: 'The message names the policy and the field.',
  },
  'map-pressure': {
    severity: 'warning',
    symptom: 'a table in the kernel is nearly full',
    cause: 'more than nine tenths of its room are used',
    next: 'clustermesh status --socket-path /run/isthmus/agent.sock',
    mend: 'Raise the limit of that map with its flag (docs/reference), and start the agent again.',
  },
  'kernel-differs': {
    severity: 'error',
    symptom: 'the kernel does not hold what it should',
    cause: 'comparing the maps with what is wanted found differences, or a write fails',
    next: 'clustermesh status --socket-path /run/isthmus/agent.sock',
    mend: 'The agent mends it by itself; if it stays, its log says which map.',
  },
} as const satisfies Readonly<Record<string, ProblemKind>>;
