/** A machine that is no node and no pod, and an endpoint as a pod is one: its own host. */
import type { IpAddress } from '../../mesh/wire/ip.ts';

/** A machine as the cluster's side knows it, and as its agent says it is. */
export interface Machine {
  /** A DNS label. */
  readonly name: string;
  readonly namespace: string;
  /** What the cluster's side gave it. */
  readonly labels: Readonly<Record<string, string>>;
  /** Underlay addresses. */
  readonly addresses: readonly IpAddress[];
  /** Checks that its agent says are passed, by `HealthCheck.check`. */
  readonly healthy: ReadonlySet<string>;
  /** Default: there are none. */
  readonly endpoints?: readonly MachineEndpoint[] | undefined;
}

/** An endpoint behind a machine, such as a container: it has a name on its machine, and labels of its own. */
export interface MachineEndpoint {
  /** A DNS label. */
  readonly name: string;
  readonly addresses: readonly IpAddress[];
  readonly labels: Readonly<Record<string, string>>;
}

/** Service account in the identity of every machine: Kubernetes' own default. */
export const MACHINE_SERVICE_ACCOUNT = 'default';

/**
 * Name of a machine among the claimants of an address. No pod has such a path: its namespace is not empty.
 */
export function machinePath(name: string): string {
  return `/${name}`;
}

/** The same of an endpoint behind a machine. */
export function machineEndpointPath(machine: string, endpoint: string): string {
  return `${machinePath(machine)}/${endpoint}`;
}
