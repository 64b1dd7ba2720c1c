/** What a machine signs to show that it holds the private key of the public key that it sends. Pure. */
import { createHash } from 'node:crypto';

const ENROLL_CONTEXT = 'isthmus-enroll-v1\0';
const ENROLL_NODE_CONTEXT = 'isthmus-enroll-node-v1\0';
const ENROLL_PEER_CONTEXT = 'isthmus-enroll-peer-v1\0';
const RENEW_CONTEXT = 'isthmus-renew-v1\0';

/**
 * Bytes that `EnrollRequest.proof` signs (RSA PKCS #1 v1.5 with SHA-256): a context, so that a signature made for
 * something else is none, and the SHA-256 of the parts, each behind its length. `publicKey` is the SPKI in DER form.
 */
export function enrollProofInput(request: {
  readonly tokenId: string;
  readonly machineName: string;
  readonly publicKey: Uint8Array;
}): Buffer {
  const { tokenId, machineName, publicKey } = request;
  return proofInput(ENROLL_CONTEXT, [Buffer.from(tokenId), Buffer.from(machineName), publicKey]);
}

/** Bytes that `EnrollNodeRequest.proof` signs, made in the same way. */
export function enrollNodeProofInput(request: {
  readonly serviceAccountToken: string;
  readonly publicKey: Uint8Array;
}): Buffer {
  const { serviceAccountToken, publicKey } = request;
  return proofInput(ENROLL_NODE_CONTEXT, [Buffer.from(serviceAccountToken), publicKey]);
}

/**
 * Bytes that `EnrollPeerRequest.proof` and `.peering_proof` sign, made in the same way. The called cluster is named, so that one
 * cannot show to another what it was sent.
 */
export function enrollPeerProofInput(request: {
  readonly clusterName: string;
  readonly calledClusterName: string;
  readonly peeringKey: Uint8Array;
  readonly publicKey: Uint8Array;
}): Buffer {
  const { clusterName, calledClusterName, peeringKey, publicKey } = request;
  const names = [Buffer.from(clusterName), Buffer.from(calledClusterName)];
  return proofInput(ENROLL_PEER_CONTEXT, [...names, peeringKey, publicKey]);
}

/** Bytes that `RenewRequest.proof` signs. `commonName` is that of the caller's certificate, `machine-<name>`. */
export function renewProofInput(request: {
  readonly commonName: string;
  readonly publicKey: Uint8Array;
}): Buffer {
  const { commonName, publicKey } = request;
  return proofInput(RENEW_CONTEXT, [Buffer.from(commonName), publicKey]);
}

/** Without the lengths two different requests could have the same bytes. */
function proofInput(context: string, parts: readonly Uint8Array[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(part.length);
    hash.update(length).update(part);
  }
  return Buffer.concat([Buffer.from(context), hash.digest()]);
}
