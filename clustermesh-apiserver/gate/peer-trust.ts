/** What is known of peers besides their certificates. */
export interface PeerTrust {
  /** Whether a cluster of that name is a peer: a certificate that we gave to one counts no longer than it is. */
  isPeer(clusterName: string): boolean;
  /** Calls back when there is another peer, or one fewer. */
  onChange(callback: () => void): void;
}
