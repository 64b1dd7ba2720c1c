/**
 * Peers enrol by their peering key: a MeshPeer names it by its hash, and nothing that the caller says of itself counts besides.
 * Nothing is kept: a peer renews its certificate by enrolling again, and one whose MeshPeer is gone is let in no longer.
 */
import { z } from 'zod';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import { enrollPeerProofInput } from '../../mesh/wire/key-proof.ts';
import type { IssuingAuthority } from './certificate-authority.ts';
import {
  createEnrollmentGuard,
  type EnrollmentCall,
  type RefusalCounts,
} from './enrollment-guard.ts';
import type { EnrollmentLimits } from './enrollment-limits.ts';
import type { EnrollmentMethod } from './enrollment-listener.ts';
import { type EnrollmentRefusal, refusal } from './enrollment-refusal.ts';
import { isProven, readClaimedKey } from './key-claim.ts';

const SCHEMA = 1;
const MOST_NAME_LENGTH = 64;

/** Peers that may enrol. */
export interface EnrollingPeers {
  /**
   * SHA-256 (SPKI, DER, lower-case hex) of the key of the peer of that name. Undefined: there is no such peer, or it does not
   * enrol.
   */
  keyHashOf(clusterName: string): string | undefined;
}

/** Enrols peers. */
export interface PeerEnrollment {
  readonly method: EnrollmentMethod;
  /** Certificates that were given, and calls that were refused. */
  readonly status: { readonly enrolled: number; readonly refused: RefusalCounts };
}

type PeerEnrollmentOutcome =
  | { readonly kind: 'enrolled'; readonly certificate: string }
  | EnrollmentRefusal;

const bytesField = z.instanceof(Uint8Array).default(new Uint8Array());
const nameField = z.string().max(MOST_NAME_LENGTH).default('');
const requestSchema = z.object({
  schema: z.number().default(0),
  cluster_name: nameField,
  called_cluster_name: nameField,
  peering_key: bytesField,
  public_key: bytesField,
  peering_proof: bytesField,
  proof: bytesField,
});

/** Makes the method of the enrollment listener by which peers enrol. */
export function createPeerEnrollment(options: {
  readonly peers: EnrollingPeers;
  readonly cluster: {
    readonly name: ClusterName;
    readonly id: ClusterId;
    readonly max: MaxConnectedClusters;
  };
  readonly authority: Pick<IssuingAuthority, 'state' | 'notAfter' | 'issue'>;
  readonly limits: EnrollmentLimits;
  readonly clock: Clock;
  readonly logger: Logger;
}): PeerEnrollment {
  const { peers, cluster, authority, limits, clock, logger } = options;
  const guard = createEnrollmentGuard({ limits, clock, logger });
  let enrolled = 0;

  const decide = async ({ message, from }: EnrollmentCall): Promise<PeerEnrollmentOutcome> => {
    const parsed = requestSchema.safeParse(message);
    if (!parsed.success) {
      return refusal('malformed', 'cannot read the request: it is no EnrollPeerRequest');
    }
    const { schema, cluster_name: name, called_cluster_name: called } = parsed.data;
    if (schema !== SCHEMA) {
      return refusal(
        'malformed',
        `schema ${schema} is not known, expected ${SCHEMA}: bring both clusters to one version`,
      );
    }
    if (called !== cluster.name) {
      return refusal(
        'wrong-cluster',
        `this is cluster ${cluster.name}, and ${JSON.stringify(called)} was called: correct the address, or the name`,
      );
    }
    const { peering_key: peeringKey, public_key: publicKey } = parsed.data;
    const peering = readClaimedKey(peeringKey);
    if (peering.kind === 'unusable') return refusal('bad-key', `peering_key: ${peering.reason}`);
    // One answer for a name and for a key that are not known: whom we have for peers is nobody else's business.
    if (peers.keyHashOf(name) !== peering.key.hash) {
      return refusal(
        'unknown-peer',
        `cluster ${cluster.name} has no peer ${JSON.stringify(name)} with this key: apply there what "clustermesh peer export" prints here`,
      );
    }
    const claimed = readClaimedKey(publicKey);
    if (claimed.kind === 'unusable') return refusal('bad-key', claimed.reason);
    const input = enrollPeerProofInput({
      clusterName: name,
      calledClusterName: called,
      peeringKey,
      publicKey,
    });
    const { proof, peering_proof: peeringProof } = parsed.data;
    const isWhole =
      isProven(peering.key, { input, proof: peeringProof }) &&
      isProven(claimed.key, { input, proof });
    if (!isWhole) {
      return refusal('bad-key', 'a proof does not belong to its public key and this request');
    }
    const { state } = authority;
    if (state.kind === 'unusable') return refusal('unavailable', state.reason);
    const notAfter = authority.notAfter();
    const { certificate } = authority.issue({
      commonName: `remote-${name}`,
      publicKey: claimed.key.publicKey,
      notAfter,
    });
    enrolled += 1;
    logger.info(
      { peer: name, from, key: claimed.key.hash, validTo: new Date(notAfter).toISOString() },
      'a peer was enrolled',
    );
    return { kind: 'enrolled', certificate };
  };

  return {
    method: {
      name: 'EnrollPeer',
      async answer(call) {
        const outcome = await guard.pass(call, () => decide(call));
        const ourselves = {
          cluster_name: cluster.name,
          cluster_id: cluster.id,
          max_connected_clusters: cluster.max,
        };
        if (outcome.kind === 'enrolled') {
          const certificate = Buffer.from(outcome.certificate);
          return { kind: 'answered', message: { ...ourselves, certificate } };
        }
        // Whoever calls has to know who answers: our server certificate tells it to everybody as well.
        const { reason, details } = outcome;
        return reason === 'wrong-cluster' || reason === 'unknown-peer'
          ? { kind: 'answered', message: { ...ourselves, refused: details } }
          : outcome;
      },
    },
    get status() {
      return { enrolled, refused: guard.refused };
    },
  };
}
