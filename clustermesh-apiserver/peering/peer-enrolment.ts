/** Enrolling with a peer: by our peering key, for a certificate that it knows us by. */
import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import { describeCertificate } from '../../mesh/runtime/certificate-words.ts';
import { callUnary, GrpcCallError } from '../../mesh/runtime/grpc-call.ts';
import { ADDRESS_TLS_NAME, anonymousClientCredentials } from '../../mesh/runtime/grpc-client.ts';
import { type HostPort, parseHostPort } from '../../mesh/runtime/option-parsers.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { enrollPeerProofInput } from '../../mesh/wire/key-proof.ts';
import type { MeshPeer } from './mesh-peer.ts';
import { PeeringError } from './peering-error.ts';
import { type ClientKey, makeClientKey, type PeeringKey } from './peering-key.ts';

const SCHEMA = 1;
const TIMEOUT_MS = 8000;
/** Names of which every server of the mesh bears one, whatever address it is reached at. */
const SERVER_NAMES = ['clustermesh-apiserver.cilium.io', 'any.mesh.cilium.io'];

/** A certificate with its key, PEM. */
export interface ClientPair {
  readonly certificate: string;
  readonly privateKey: string;
}

/** What a peer said. */
export interface PeerEnrolment {
  /** What it calls itself. */
  readonly clusterName: string;
  readonly clusterId: number;
  readonly maxConnectedClusters: number;
  /** What we may show it, or in its words why there is nothing. */
  readonly outcome:
    | { readonly kind: 'enrolled'; readonly pair: ClientPair }
    | { readonly kind: 'refused'; readonly details: string };
}

const answerSchema = z.object({
  certificate: z
    .instanceof(Buffer)
    .default(Buffer.alloc(0))
    .transform((buffer) => buffer.toString('utf8')),
  cluster_name: z.string(),
  cluster_id: z.number().default(0),
  max_connected_clusters: z.number().default(255),
  refused: z.string().default(''),
});

/**
 * Asks one enrollment listener after the other until one answers. Throws PeeringError `unreachable`, `untrusted`, `refused` or
 * `nonsense`, that of the last one.
 */
export async function enrolWithPeer(
  peer: Pick<MeshPeer, 'name' | 'spec'>,
  options: {
    readonly ownName: ClusterName;
    readonly key: PeeringKey;
    /** The key that is to be certified. Default: a new one. */
    readonly client?: ClientKey | undefined;
    readonly signal: AbortSignal;
  },
): Promise<PeerEnrolment> {
  let failure: unknown;
  for (const place of enrollmentPlaces(peer)) {
    try {
      return await enrolAt(place, peer, options);
    } catch (error) {
      options.signal.throwIfAborted();
      failure = error;
    }
  }
  throw failure ?? new PeeringError('refused', `peer ${peer.name} has no enrollment listener`);
}

/** Where the enrollment listeners of a peer are dialled: names that have an alias by its addresses. */
export function enrollmentPlaces({ spec }: Pick<MeshPeer, 'spec'>): HostPort[] {
  return spec.enrollment.flatMap((text) => {
    const place = parseHostPort(text);
    const alias = spec.hostAliases.find(({ hostname }) => hostname === place.host);
    return alias === undefined ? [place] : alias.ips.map((host) => ({ host, port: place.port }));
  });
}

async function enrolAt(
  server: HostPort,
  { name, spec }: Pick<MeshPeer, 'name' | 'spec'>,
  options: {
    readonly ownName: ClusterName;
    readonly key: PeeringKey;
    readonly client?: ClientKey | undefined;
    readonly signal: AbortSignal;
  },
): Promise<PeerEnrolment> {
  const { ownName, key, signal } = options;
  const client = options.client ?? (await makeClientKey());
  const input = enrollPeerProofInput({
    clusterName: ownName,
    calledClusterName: name,
    peeringKey: key.publicDer,
    publicKey: client.publicDer,
  });
  const what = {
    proto: 'mesh/wire/registry.proto',
    service: 'isthmus.registry.v1.Enrollment',
    method: 'EnrollPeer',
  };
  const request = {
    schema: SCHEMA,
    cluster_name: ownName,
    called_cluster_name: name,
    peering_key: key.publicDer,
    public_key: client.publicDer,
    peering_proof: key.sign(input),
    proof: client.sign(input),
  };
  const names = [server.host, ...SERVER_NAMES];
  const answer = await callUnary(what, request, {
    server,
    credentials: anonymousClientCredentials(spec.ca, names),
    // What the certificate is for is compared with all of the names.
    tlsName: ADDRESS_TLS_NAME,
    timeoutMs: TIMEOUT_MS,
    signal,
  }).catch((error: unknown) => {
    throw toPeeringError(error);
  });
  const parsed = answerSchema.safeParse(answer);
  if (!parsed.success) {
    throw new PeeringError('nonsense', `cannot read the answer of peer ${name}`);
  }
  const { certificate, cluster_name: clusterName, refused } = parsed.data;
  if (certificate !== '')
    checkIssued(certificate, { key: client, commonName: `remote-${ownName}` });
  return {
    clusterName,
    clusterId: parsed.data.cluster_id,
    maxConnectedClusters: parsed.data.max_connected_clusters,
    outcome:
      certificate === ''
        ? { kind: 'refused', details: refused }
        : { kind: 'enrolled', pair: { certificate, privateKey: client.pem } },
  };
}

/** Of our key and our name; whether the peer takes what it has signed is for the peer to know. */
function checkIssued(
  pem: string,
  expected: { readonly key: PeeringKey; readonly commonName: string },
): void {
  let leaf: X509Certificate;
  try {
    leaf = new X509Certificate(pem);
  } catch (cause) {
    throw new PeeringError('nonsense', "the peer's answer holds no certificate", { cause });
  }
  const publicDer = leaf.publicKey.export({ type: 'spki', format: 'der' });
  if (!publicDer.equals(expected.key.publicDer)) {
    throw new PeeringError(
      'nonsense',
      `the certificate that the peer has given is of another key (${describeCertificate(leaf)})`,
    );
  }
  if (!leaf.subject.split('\n').includes(`CN=${expected.commonName}`)) {
    throw new PeeringError(
      'nonsense',
      `the certificate that the peer has given is not for ${expected.commonName} (${describeCertificate(leaf)})`,
    );
  }
}

function toPeeringError(error: unknown): unknown {
  if (!(error instanceof GrpcCallError)) return error;
  const { code, message, retryable } = error;
  return new PeeringError(code, message, { retryable, cause: error });
}
