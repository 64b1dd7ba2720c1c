/** Endpoints of this node: as they are made, and what they are at present. */
import type { Labels } from '../../mesh/wire/identity.ts';
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { EndpointEntry } from '../datapath/desired.ts';

/** A pod of this node, as the container runtime made it; or the host itself. */
export interface LocalEndpoint {
  readonly endpointId: number;
  readonly addresses: readonly IpAddress[];
  /** It is the host: a node, whom policies select by its labels, or a machine, whose address has an identity. */
  readonly host?: 'node' | 'machine' | undefined;
  readonly ifindex: number;
  readonly hostInterface: string;
  readonly mac: string;
}

/** What an endpoint is at present, for people. */
export interface EndpointState extends LocalEndpoint {
  readonly identity: NumericIdentity;
  readonly labels: Labels | undefined;
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
  /** Asked for by setAudit: what policy denies is told and counted, and passes. */
  readonly audit: boolean;
  /** Policies that select it. */
  readonly policies: readonly string[];
  /** Rows of the policy table that it needs. */
  readonly entries: number;
  /** It needs more rows than it may have, or than there is room for, and has none: nobody is let through. */
  readonly isOverfull: boolean;
  /** Some row that denies cannot be written: nobody is let through until it is. */
  readonly isRefused: boolean;
  /** Its row is as a previous process left it, until the own cluster has said everything. */
  readonly held: boolean;
}

/** Whether two rows of one endpoint say the same to the kernel. */
export function sameEndpoint(a: EndpointEntry, b: EndpointEntry): boolean {
  return (
    a.ifindex === b.ifindex &&
    a.hostInterface === b.hostInterface &&
    a.mac.toLowerCase() === b.mac.toLowerCase() &&
    a.identity === b.identity &&
    a.ingressEnforced === b.ingressEnforced &&
    a.egressEnforced === b.egressEnforced &&
    a.audit === b.audit &&
    [...a.addresses].sort().join() === [...b.addresses].sort().join()
  );
}
