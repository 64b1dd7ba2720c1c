/** Which interface belongs to which pod: by the addresses that the cluster gives the pod and the interface has. */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { ClusterPodAddress } from './cluster-pods.ts';
import type { ContainerInterface } from './interfaces.ts';

/** An interface of a pod that nobody told the agent of. */
export interface DiscoveredPod extends ContainerInterface {
  /** Those that the interface has and the cluster gives this pod: what else a pod may have set is not its to use. */
  readonly addresses: readonly IpAddress[];
  readonly podNamespace: string;
  readonly podName: string;
}

/**
 * Matches pods with interfaces. An address that several interfaces have, and an interface with addresses of several pods, are
 * left alone, since one of them is not what it says: they are told in `problems`, a sentence each.
 */
export function matchPods(
  pods: readonly ClusterPodAddress[],
  interfaces: readonly ContainerInterface[],
): { readonly found: readonly DiscoveredPod[]; readonly problems: readonly string[] } {
  const wanted = new Map(pods.map((pod) => [pod.address, pod]));
  const problems: string[] = [];
  const holders = new Map<IpAddress, string[]>();
  for (const { addresses, hostInterface } of interfaces) {
    for (const address of new Set(addresses)) {
      if (wanted.has(address))
        holders.set(address, [...(holders.get(address) ?? []), hostInterface]);
    }
  }
  for (const [address, names] of holders) {
    if (names.length === 1) continue;
    const pod = wanted.get(address);
    problems.push(
      `address ${address} of pod ${pod === undefined ? '?' : podText(pod)} is on several interfaces, ${names.join(' and ')}: none is taken into the mesh; one of these pods has set an address that is not its own`,
    );
  }
  const found = interfaces.flatMap((one): DiscoveredPod[] => {
    const own = [...new Set(one.addresses)].flatMap((address) => {
      const pod = holders.get(address)?.length === 1 ? wanted.get(address) : undefined;
      return pod === undefined ? [] : [pod];
    });
    const [first] = own;
    if (first === undefined) return [];
    if (own.some((pod) => podText(pod) !== podText(first))) {
      const names = [...new Set(own.map(podText))].join(' and ');
      problems.push(
        `interface ${one.hostInterface} has addresses of several pods, ${names}: it is not taken into the mesh; look at the addresses in its network namespace ${one.netns}`,
      );
      return [];
    }
    const { podNamespace, podName } = first;
    const addresses = own.map(({ address }) => address).sort();
    return [{ ...one, addresses, podNamespace, podName }];
  });
  return { found, problems };
}

/** `namespace/name`, for people. */
export function podText(pod: { readonly podNamespace: string; readonly podName: string }): string {
  return `${pod.podNamespace}/${pod.podName}`;
}
