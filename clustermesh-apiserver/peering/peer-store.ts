/** Where the peers of a cluster are kept: files, or objects of an API server. */
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { ReflectorStatus } from '../kubernetes/reflector.ts';
import type { MeshPeer } from './mesh-peer.ts';

/** A peer as it is kept. */
export interface StoredPeer {
  readonly peer: MeshPeer;
  /** The file or object, for people. */
  readonly source: string;
}

/** Something in the store that cannot be used. */
export interface PeerProblem {
  /** Name of the peer as far as it can be told. */
  readonly name: string;
  readonly source: string;
  readonly message: string;
}

/** Everything that is kept at one time. What has a problem is at its last good state, if it has one. */
export interface PeerListing {
  readonly peers: ReadonlyMap<ClusterName, StoredPeer>;
  readonly problems: readonly PeerProblem[];
}

/** How a peer stands, for the object's status. */
export interface PeerCondition {
  readonly type: 'Ready' | 'Trusted' | 'Enrolled' | 'Connected';
  readonly status: boolean;
  /** One word. */
  readonly reason: string;
  readonly message: string;
}

/** A condition with the time since when it is so, milliseconds since 1970. */
export type TimedPeerCondition = PeerCondition & { readonly since: number };

/** A store. */
export interface PeerStore {
  /** Yields everything as it is, and again after each change; nothing while it cannot be read. Ends when `signal` aborts. */
  watch(signal: AbortSignal): AsyncIterable<PeerListing>;
  /** Resolves when a look that began after this call has been yielded. Throws PeeringError `unreachable`: nobody can look. */
  look(signal: AbortSignal): Promise<void>;
  /** Writes a peer. Throws PeeringError `read-only`. */
  put(peer: Pick<MeshPeer, 'name' | 'spec'>, signal: AbortSignal): Promise<void>;
  /** Removes a peer; one that is not there is removed already. Throws PeeringError `read-only`. */
  remove(name: ClusterName, signal: AbortSignal): Promise<void>;
  /** The certificate that a peer has given to us. Throws an Error that says what is wrong. */
  readClientCertificate(
    peer: Pick<MeshPeer, 'name' | 'spec'>,
    signal: AbortSignal,
  ): Promise<{ readonly certificate: string; readonly privateKey: string }>;
  /** How the objects are being read, where somebody is asked for them; `reason` is empty where nothing is wrong. */
  reading?(): Pick<ReflectorStatus, 'state' | 'reason'> | undefined;
  /** Writes down how peers stand, where there is a place for it. Default: nowhere. */
  writeStatus?(
    peer: MeshPeer,
    conditions: readonly TimedPeerCondition[],
    signal: AbortSignal,
  ): Promise<void>;
}
