/** Problems on packets' way between nodes, and of a host that is to carry them. Pure. */
import type { ProblemKind } from './problem.ts';

/** By id. */
export const DATAPATH_PROBLEMS = {
  'underlay-blocked': {
    severity: 'error',
    symptom: 'a node of a peer cannot be reached at all',
    cause: 'no route leads to it, or nothing comes back from it',
    next: 'ip route get {address}',
    mend: 'Nodes of both clusters need a route to each other.',
  },
  'vxlan-blocked': {
    severity: 'error',
    symptom: 'a node of a peer answers, and the tunnel to it does not',
    cause: 'packets to its tunnel port are lost: a firewall drops UDP, or its agent is down',
    next: 'nft list ruleset',
    mend: 'Open UDP 8472 (or --tunnel-port) between the nodes of both clusters, in both directions.',
  },
  'mtu-small': {
    severity: 'error',
    symptom: 'small packets pass, and large ones are lost',
    cause: 'the way to a node of a peer is narrower than the MTU that pods are told',
    next: 'tracepath -n {address}',
    mend: 'Raise the MTU on the way, or lower --mtu of the agents.',
  },
  'policy-denies': {
    severity: 'warning',
    symptom: 'a policy forbids the traffic',
    cause: 'a policy of one of the two ends does not allow it',
    next: 'clustermesh policy trace --from {from} --to {to} --port {port}',
    mend: 'It names the rule that decides. Each cluster answers for its own policies alone: run it on a node of the cluster that denies.',
  },
  'pod-silent': {
    severity: 'error',
    symptom: 'a pod of a peer does not answer a pod of this cluster',
    cause: 'nothing comes back, and the policies of this cluster allow it',
    next: 'clustermesh policy trace --from {from} --to {to} --port {port}',
    mend: 'Policies of the other cluster are known there alone: run the trace there. If they allow it, see whether the pod is there and answers its own node.',
  },
  'service-not-translated': {
    severity: 'error',
    symptom: 'calls to a Service do not reach the mesh',
    cause: 'its addresses are not translated on this node',
    next: 'clustermesh describe service {service}',
    mend: 'The message says why. A Service has to be there in the cluster of the caller, too, and global: annotate it with `service.cilium.io/global: "true"`.',
  },
  'service-no-backend': {
    severity: 'error',
    symptom: 'calls to a Service are refused',
    cause: 'no cluster has a backend of it that is used',
    next: 'clustermesh describe service {service}',
    mend: 'It says of each backend why it is not used. See that pods are ready behind the Service, in one cluster at least.',
  },
  'service-peer-unused': {
    severity: 'warning',
    symptom: 'no call to a Service goes to a peer',
    cause: 'no backend of that peer is used for it',
    next: 'clustermesh describe service {service}',
    mend: 'It says of each backend why it is not used: nothing is offered or shared, the affinity or a topology hint prefers others, or the peer is drained or withdrawn.',
  },
  'service-refused': {
    severity: 'error',
    symptom: 'a backend of a Service refuses connections',
    cause: 'the pod answers, and nothing listens on the port that the Service names',
    next: 'clustermesh describe service {service}',
    mend: "Correct the Service's targetPort in the other cluster, or see why the program there does not listen.",
  },
  'service-silent': {
    severity: 'error',
    symptom: 'a backend of a Service does not answer',
    cause: 'nothing comes back from its address and port',
    next: 'clustermesh policy trace --from {from} --to {to} --port {port}',
    mend: "Policies of the other cluster are known there alone: run the trace there. If they allow it, look at the pod's node.",
  },
  'peer-no-nodes': {
    severity: 'error',
    symptom: 'a peer has no nodes',
    cause: 'it publishes none, so no packet can be sent to it',
    next: 'clustermesh status',
    mend: 'Run it in the other cluster: its agents tell its registry of their nodes.',
  },

  // Of a host, by `clustermesh check`.
  'host-kernel': {
    severity: 'error',
    symptom: 'the kernel lacks something that the datapath needs',
    cause: 'a feature is not built in, or the kernel is too old',
    next: 'uname -r',
    mend: 'docs/datapath.md lists what is needed.',
  },
  'host-mount': {
    severity: 'error',
    symptom: 'a file system is not mounted',
    cause: 'bpffs on /sys/fs/bpf or cgroup v2 on /sys/fs/cgroup is missing',
    next: 'findmnt -t bpf,cgroup2',
    mend: 'Mount what is missing (`mount -t bpf bpf /sys/fs/bpf`), and see that it is mounted at boot.',
  },
  'host-permission': {
    severity: 'error',
    symptom: 'permissions are missing',
    cause: 'the programs need CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN',
    next: 'sudo clustermesh check',
    mend: 'Run it as root, or give the container these capabilities.',
  },
  'host-port': {
    severity: 'error',
    symptom: 'a port is taken',
    cause: 'another program listens where ours should',
    next: 'ss -lntup',
    mend: 'Stop the other program, or choose another port with the flag in the message.',
  },
  'host-tool': {
    severity: 'error',
    symptom: 'a program is missing',
    cause: 'the agent uses ip of iproute2, and tc where it must',
    next: 'ip -V',
    mend: 'Install iproute2.',
  },
  'host-kube-proxy': {
    severity: 'warning',
    symptom:
      'kube-proxy and the agent of a node do not divide Services between them as they should',
    cause: 'what runs beside the agent is not what its flags were made for',
    next: 'kubectl -n kube-system get pods -l k8s-app=kube-proxy -o wide',
    mend: 'Beside kube-proxy, run the agent with --services global or without the flag; without kube-proxy, with --services all or --kube-proxy-replacement. The agent decides when it starts: start it again when kube-proxy has come or gone.',
  },
  'host-cni': {
    severity: 'warning',
    symptom: 'the CNI of this node needs a look',
    cause: 'no CNI configuration is found to chain to, or one that enforces policies itself',
    next: 'ls -l /etc/cni/net.d',
    mend: 'docs/kubernetes.md has a table of CNIs.',
  },
} as const satisfies Readonly<Record<string, ProblemKind>>;
