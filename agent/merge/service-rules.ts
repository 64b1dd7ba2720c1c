/** Which Services this node translates, and for whom. */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { ServiceAlgorithm } from '../datapath/desired.ts';

/** Services that are translated: those of the mesh beside a kube-proxy, or every one. */
export const SERVICE_SCOPES = ['global', 'all'] as const;
/** One of `SERVICE_SCOPES`. */
export type ServiceScope = (typeof SERVICE_SCOPES)[number];

/** What an operator decided about Services on this node. */
export interface ServiceRules {
  readonly services: ServiceScope;
  /** externalIPs, load balancer addresses and node ports, too. */
  readonly kubeProxyReplacement: boolean;
  /** Of Services that do not say how their backends are picked. */
  readonly algorithm: ServiceAlgorithm;
}

/** Every Service by its cluster addresses, any backend by chance. */
export const DEFAULT_SERVICE_RULES: ServiceRules = {
  services: 'all',
  kubeProxyReplacement: false,
  algorithm: 'random',
};

/** This node, as far as Services look at it. */
export interface ServiceNode {
  readonly clusterId: number;
  readonly nodeName: string;
  readonly nodeIps: readonly IpAddress[];
  /** Zone of this node; empty while nobody has said it. */
  readonly zone: string;
}

/** What the options say; `services` undefined: to be found out. */
export interface ServiceWishes extends Omit<ServiceRules, 'services'> {
  readonly services: ServiceScope | undefined;
}

/** The rules of this node and where they come from. */
export interface DecidedServices {
  readonly rules: ServiceRules;
  /** `all (nothing of a kube-proxy was found on this node)`, for status and log. */
  readonly reason: string;
  /** What somebody should look at; undefined: nothing. */
  readonly problem: string | undefined;
}

/**
 * Decides which Services are translated here. `kubeProxy` is what was found of one, in words; undefined: nothing. Options
 * that exclude each other are refused where they are parsed.
 */
export function decideServices(
  wishes: ServiceWishes,
  kubeProxy: string | undefined,
): DecidedServices {
  const { services, kubeProxyReplacement, algorithm } = wishes;
  const decide = (scope: ServiceScope, why: string, problem?: string): DecidedServices => ({
    rules: { services: scope, kubeProxyReplacement, algorithm },
    reason: `${scope} (${why})`,
    problem,
  });
  if (kubeProxyReplacement) {
    return decide(
      'all',
      '--kube-proxy-replacement is given',
      kubeProxy === undefined
        ? undefined
        : `--kube-proxy-replacement is given, but ${kubeProxy}: stop kube-proxy on this node and run "kube-proxy --cleanup", or leave the option out`,
    );
  }
  if (services !== undefined) return decide(services, '--services says so');
  return kubeProxy === undefined
    ? decide('all', 'nothing of a kube-proxy was found on this node')
    : decide('global', `the others are left to kube-proxy: ${kubeProxy}`);
}
