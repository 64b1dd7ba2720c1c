import type { KvPair } from '../kvstore/kvstore.ts';
import type { ClusterConfig } from '../wire/cluster-config.ts';
import type { Labels } from '../wire/identity.ts';
import type { ClusterId, ClusterName, NumericIdentity } from '../wire/ids.ts';
import type { IpPrefix } from '../wire/ip.ts';
import type { IpIdentity } from '../wire/ip-identity.ts';
import type { LocalPolicy } from '../wire/local-policy.ts';
import type { LocalService } from '../wire/local-service.ts';
import type { Node } from '../wire/node.ts';
import type { ClusterService } from '../wire/service.ts';

/** What can be read from a cluster. */
export const MESH_KINDS = [
  'nodes',
  'identities',
  'ips',
  'services',
  'serviceexports',
  'endpointslices',
  'local-identities',
  'local-ips',
  'local-services',
  'local-policies',
] as const;
export type MeshKind = (typeof MESH_KINDS)[number];

/** What an agent reads from a peer. */
export const PEER_KINDS = ['nodes', 'identities', 'ips', 'services'] as const satisfies MeshKind[];

/** What an agent reads from its own cluster: the last four are for own agents alone. */
export const OWN_KINDS = [
  ...PEER_KINDS,
  'local-identities',
  'local-ips',
  'local-services',
  'local-policies',
] as const satisfies MeshKind[];

/** What a mirror reads from a peer: everything that peers publish. */
export const MIRRORED_KINDS = [
  ...PEER_KINDS,
  'serviceexports',
  'endpointslices',
] as const satisfies MeshKind[];

/**
 * Kinds that are one to whoever is told: what peers may know, and what only the own agents may. Nobody is told of the
 * second ones by name.
 */
export const LOCAL_HALVES = [
  ['identities', 'local-identities'],
  ['ips', 'local-ips'],
] as const satisfies readonly (readonly [MeshKind, MeshKind])[];

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
  /** Kinds that are mirrored and not looked into: the bytes are in the pair. */
  | {
      readonly kind: 'service-export' | 'endpoint-slice';
      readonly name: string;
      readonly value: KvPair | undefined;
    }
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
  /** Its configuration was accepted: before anything else of a connection, and again whenever it changes. */
  configured?(cluster: ClusterRef, config: ClusterConfig): void;
  /** `pair` is what the change was made of, byte for byte; undefined for what is taken back. */
  apply(cluster: ClusterRef, change: ClusterChange, pair: KvPair | undefined): void;
  /** Everything of that kind (both halves of it) has been applied; called again after each later full list. */
  synced(cluster: ClusterRef, kind: MeshKind): void;
  /** The cluster is gone from the mesh; all it said was taken back before. */
  removed(cluster: ClusterRef): void;
}
