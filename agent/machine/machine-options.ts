import {
  type HostPort,
  parseBoolean,
  parseHostPort,
  parseText,
} from '../../mesh/runtime/option-parsers.ts';
import { defineOptions } from '../../mesh/runtime/options.ts';

/** Where a machine's resolver answers: a loopback address that neither systemd-resolved (127.0.0.53, .54) nor others use. */
export const MACHINE_DNS_ADDRESS: HostPort = { host: '127.0.0.55', port: 53 };

/** Options of an agent that runs as a machine, and of the resolver. */
export const MACHINE_OPTIONS = defineOptions({
  machine: {
    flag: '--machine',
    env: 'ISTHMUS_MACHINE',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: 'this host is a machine of the cluster, and no node: it has the identity of its labels. What `clustermesh vm join` has written to --state-dir (default then: /var/lib/isthmus) stands in for the options of cluster, node, etcd, registry and tunnel; --services and --host-routes are all',
  },
  instanceId: {
    flag: '--instance-id TEXT',
    env: 'ISTHMUS_INSTANCE_ID',
    parse: parseText,
    help: 'with --machine: what tells this machine from a copy of it; default: the boot id of the kernel, which differs after each boot',
  },
  dnsAddress: {
    flag: '--dns-address HOST:PORT',
    env: 'ISTHMUS_DNS_ADDRESS',
    parse: parseDnsAddress,
    help: 'where names of Services are answered, by UDP and TCP: *.svc.cluster.local from the own cluster, *.svc.clusterset.local from all; or off; default: off, with --machine 127.0.0.55:53',
  },
  dnsClusterDomain: {
    flag: '--dns-cluster-domain DOMAIN',
    env: 'ISTHMUS_DNS_CLUSTER_DOMAIN',
    default: 'cluster.local',
    parse: parseDomain,
    help: "domain of the own cluster's Services: what its kubelets have as clusterDomain",
  },
});

function parseDnsAddress(text: string): HostPort | 'off' {
  return text === 'off' ? 'off' : parseHostPort(text);
}

function parseDomain(text: string): string {
  const domain = text.toLowerCase().replace(/\.$/, '');
  if (domain.length <= 200 && /^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*$/.test(domain)) return domain;
  throw new Error(`cannot parse ${JSON.stringify(text)}: expected a domain such as cluster.local`);
}
