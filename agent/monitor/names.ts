/** What an agent knows of the numbers in an event. */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { Protocol } from '../../mesh/wire/service.ts';

/** Names for numbers; undefined where nothing is known. */
export interface MonitorNames {
  /** Of this node. */
  readonly node: string;
  /** As `k8s:app=web`. */
  labelsOf(identity: number): readonly string[] | undefined;
  /** Name of the cluster that an identity belongs to. */
  clusterOf(identity: number): string | undefined;
  clusterName(clusterId: number): string | undefined;
  /** `namespace/name` of a pod of this node. */
  podOfEndpoint(endpointId: number): string | undefined;
  podOfAddress(address: IpAddress): string | undefined;
  /** Endpoint of this node behind an interface. */
  endpointOfInterface(ifindex: number): number | undefined;
  interfaceName(ifindex: number): string | undefined;
  /** `namespace/name` of a service. */
  serviceOf(frontend: {
    readonly address: IpAddress;
    readonly port: number;
    readonly protocol: Protocol;
  }): string | undefined;
}
