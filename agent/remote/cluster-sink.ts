import type { Labels } from '../../mesh/wire/identity.ts';
import type { ClusterId, ClusterName, NumericIdentity } from '../../mesh/wire/ids.ts';
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { IpIdentity } from '../../mesh/wire/ip-identity.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { ClusterService } from '../../mesh/wire/service.ts';

/** What is read from a cluster; the last two from the own cluster alone. */
export const MESH_KINDS = [
  'nodes',
  'identities',
  'ips',
  'services',
  'local-services',
  'local-policies',
] as const;
export type MeshKind = (typeof MESH_KINDS)[number];

/** Kinds that a peer has. */
export const PEER_KINDS = ['nodes', 'identities', 'ips', 'services'] as const satisfies MeshKind[];

/** A cluster whose configuration was read and accepted. */
export interface ClusterRef {
  readonly name: ClusterName;
  readonly id: ClusterId;
  /** Whether it is the agent's own. */
  readonly own: boolean;
}

/** One checked change of what a cluster says. An undefined value: it says that no more. */
export type ClusterChange =
  | { readonly kind: 'node'; readonly name: string; readonly value: Node | undefined }
  | { readonly kind: 'identity'; readonly id: NumericIdentity; readonly value: Labels | undefined }
  | { readonly kind: 'ip'; readonly prefix: IpPrefix; readonly value: IpIdentity | undefined }
  | { readonly kind: 'service'; readonly name: string; readonly value: ClusterService | undefined }
  | {
      readonly kind: 'local-service';
      readonly name: string;
      readonly value: LocalService | undefined;
    }
  | {
      readonly kind: 'local-policy';
      readonly name: string;
      readonly value: LocalPolicy | undefined;
    };

/** Where peers put what they read. Calls never throw and return at once. */
export interface ClusterSink {
  apply(cluster: ClusterRef, change: ClusterChange): void;
  /** Everything of that kind has been applied; called again after each later full list. */
  synced(cluster: ClusterRef, kind: MeshKind): void;
  /** The cluster is gone from the mesh; all it said was taken back before. */
  removed(cluster: ClusterRef): void;
}
