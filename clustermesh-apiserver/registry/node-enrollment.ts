/**
 * Nodes of a cluster in Kubernetes enrol by the projected token of their agent's service account. The API server names the node;
 * nothing that the caller says of itself does. Nothing is kept either: a node renews its certificate by enrolling again, and a
 * certificate names the Node that it was given for, by which `NodeTrust` knows when it has ended.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import { enrollNodeProofInput } from '../../mesh/wire/key-proof.ts';
import { nodeUidUris } from '../gate/node-uid.ts';
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
import { readNodeEnrollmentRequest } from './node-enrollment-request.ts';
import { type ReviewNodeToken, whyUnasked } from './node-enrollment-review.ts';
import type { FindNode } from './node-trust.ts';
import { goneReason } from './node-words.ts';

/** What came of a call. */
export type NodeEnrollmentOutcome =
  | {
      readonly kind: 'enrolled';
      readonly node: string;
      /** PEM, with intermediates. */
      readonly certificate: string;
      readonly trustBundle: string;
    }
  | EnrollmentRefusal;

/** Enrols nodes. */
export interface NodeEnrollment {
  enrol(call: EnrollmentCall): Promise<NodeEnrollmentOutcome>;
  /** Certificates that were given, and calls that were refused. */
  readonly status: { readonly enrolled: number; readonly refused: RefusalCounts };
}

const QUESTION = { what: 'whether a Node is there', right: 'list nodes' };

/** How nodes enrol: who says whose a token is, or why they do not. */
export type NodeOffer =
  | { readonly kind: 'offered'; readonly review: ReviewNodeToken; readonly find: FindNode }
  | { readonly kind: 'not-offered'; readonly reason: string };

/** Makes it. */
export function createNodeEnrollment(options: {
  readonly offer: NodeOffer;
  readonly authority: Pick<IssuingAuthority, 'state' | 'trustBundle' | 'issue'>;
  /** How long certificates of nodes are valid, in milliseconds. */
  readonly ttlMs: number;
  readonly limits: EnrollmentLimits;
  readonly clock: Clock;
  readonly logger: Logger;
}): NodeEnrollment {
  const { offer, authority, ttlMs, limits, clock, logger } = options;
  const guard = createEnrollmentGuard({ limits, clock, logger });
  let enrolled = 0;

  const decide = async (call: EnrollmentCall): Promise<NodeEnrollmentOutcome> => {
    const reading = readNodeEnrollmentRequest(call.message);
    if (reading.kind === 'malformed') return refusal('malformed', reading.reason);
    if (offer.kind === 'not-offered') return refusal('not-offered', offer.reason);
    const { state } = authority;
    if (state.kind === 'unusable') return refusal('unavailable', state.reason);
    const { token, publicKey, proof, agentVersion } = reading.request;
    const claimed = readClaimedKey(publicKey);
    if (claimed.kind === 'unusable') return refusal('bad-key', claimed.reason);
    const input = enrollNodeProofInput({ serviceAccountToken: token, publicKey });
    // Before the API server is asked: it shall not have to look at what is no request at all.
    if (!isProven(claimed.key, { input, proof })) {
      return refusal('bad-key', 'the proof does not belong to the public key and this request');
    }
    const verdict = await offer.review(token, call.signal);
    switch (verdict.kind) {
      case 'refused':
        return refusal('bad-token', verdict.reason);
      case 'unavailable':
        return refusal('unavailable', verdict.reason);
      case 'node':
        break;
      default:
        return verdict satisfies never;
    }
    const { node, pod } = verdict;
    const found = await offer.find(node, call.signal);
    if (found.kind === 'gone') return refusal('bad-token', goneReason(node));
    if (found.kind === 'unknown') return refusal('unavailable', whyUnasked(found.error, QUESTION));
    const notAfter = Math.min(state.notAfter, clock.now() + ttlMs);
    const { certificate } = authority.issue({
      commonName: `node-${node}`,
      publicKey: claimed.key.publicKey,
      notAfter,
      // Of the Node as it is now: a pod that has outlived the Node it was made on belongs to the one that took its place.
      uris: nodeUidUris(found.uid),
    });
    enrolled += 1;
    logger.info(
      {
        node,
        pod,
        from: call.from,
        key: claimed.key.hash,
        agentVersion,
        validTo: new Date(notAfter).toISOString(),
      },
      'a node was enrolled',
    );
    return { kind: 'enrolled', node, certificate, trustBundle: authority.trustBundle };
  };

  return {
    enrol: (call) => guard.pass(call, () => decide(call)),
    get status() {
      return { enrolled, refused: guard.refused };
    },
  };
}

/** The method of the listener by which nodes enrol. Ports are those of gate and registry. */
export function nodeEnrollmentMethod(
  enrollment: Pick<NodeEnrollment, 'enrol'>,
  cluster: {
    readonly name: ClusterName;
    readonly id: ClusterId;
    readonly max: MaxConnectedClusters;
    readonly gatePort: number;
    readonly registryPort: number;
  },
): EnrollmentMethod {
  return {
    name: 'EnrollNode',
    async answer(call, serverName) {
      const outcome = await enrollment.enrol(call);
      if (outcome.kind === 'refused') return outcome;
      const { node, certificate, trustBundle } = outcome;
      const message = {
        certificate: Buffer.from(certificate),
        trust_bundle: Buffer.from(trustBundle),
        cluster_name: cluster.name,
        cluster_id: cluster.id,
        max_connected_clusters: cluster.max,
        gate_port: cluster.gatePort,
        registry_port: cluster.registryPort,
        server_name: serverName,
        node_name: node,
      };
      return { kind: 'answered', message };
    },
  };
}
