/** Which addresses a Service is reached at on this node, and whose backends serve there. */
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type {
  LocalService,
  LocalServicePort,
  TrafficPolicy,
} from '../../mesh/wire/local-service.ts';
import type { FrontendKey } from '../datapath/desired.ts';
import type { ServiceNode, ServiceRules } from './service-rules.ts';

/** A frontend whose backends are still to be chosen. */
export interface PlannedFrontend {
  readonly key: FrontendKey;
  readonly isExternal: boolean;
  readonly policy: TrafficPolicy;
}

/**
 * Frontends of one port of a Service, the cluster addresses first. As kube-proxy has it: `internalTrafficPolicy` is of
 * cluster addresses; `externalTrafficPolicy: Local` is for clients from outside, and those on the node reach every backend
 * at the same address; node ports are on this node's own addresses, and only of the Service's families.
 */
export function planFrontends(
  service: LocalService,
  port: LocalServicePort,
  options: { readonly rules: ServiceRules; readonly node: Pick<ServiceNode, 'nodeIps'> },
): PlannedFrontend[] {
  const { protocol } = port;
  const planned = service.clusterIps.map(
    (address): PlannedFrontend => ({
      key: { address, port: port.port, protocol, scope: 'internal' },
      isExternal: false,
      policy: service.internalTrafficPolicy,
    }),
  );
  if (!options.rules.kubeProxyReplacement) return planned;
  const families = new Set(service.clusterIps.map(ipFamily));
  // An address that a Service has twice is what it was first.
  const taken = new Set(planned.map(({ key }) => `${key.address} ${key.port}`));
  for (const [address, number] of outerAddresses(service, port, options.node.nodeIps)) {
    const text = `${address} ${number}`;
    if (!families.has(ipFamily(address)) || taken.has(text)) continue;
    taken.add(text);
    const isForAll = service.externalTrafficPolicy === 'Cluster';
    const key = { address, port: number, protocol };
    // With a policy Local the row for this node's clients is not external: nothing from outside may fall back to it.
    planned.push({
      key: { ...key, scope: 'internal' },
      isExternal: isForAll,
      policy: 'Cluster',
    });
    if (isForAll) continue;
    planned.push({ key: { ...key, scope: 'external' }, isExternal: true, policy: 'Local' });
  }
  return planned;
}

function outerAddresses(
  service: LocalService,
  { port, nodePort }: LocalServicePort,
  nodeIps: readonly IpAddress[],
): (readonly [IpAddress, number])[] {
  const isBalanced = service.type === 'LoadBalancer' && !service.hasSourceRanges;
  const addresses = [...service.externalIps, ...(isBalanced ? service.loadBalancerIps : [])];
  const hasNodePort = service.type === 'NodePort' || service.type === 'LoadBalancer';
  return [
    ...addresses.map((address) => [address, port] as const),
    ...(hasNodePort && nodePort !== undefined
      ? nodeIps.map((address) => [address, nodePort] as const)
      : []),
  ];
}
