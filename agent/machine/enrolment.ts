/** Asking a registry to take this machine in, and judging its answer. */
import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import { describeCertificate, findDateFault } from '../../mesh/runtime/certificate-words.ts';
import { callUnary, GrpcCallError } from '../../mesh/runtime/grpc-call.ts';
import { ADDRESS_TLS_NAME, anonymousClientCredentials } from '../../mesh/runtime/grpc-client.ts';
import { type HostPort, parseHostPort } from '../../mesh/runtime/option-parsers.ts';
import type { EnrollmentToken } from '../../mesh/wire/enrollment-token.ts';
import {
  type ClusterId,
  type ClusterName,
  type MaxConnectedClusters,
  parseClusterId,
  parseClusterName,
  parseMaxConnectedClusters,
} from '../../mesh/wire/ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  parseIpAddress,
  parseIpPrefix,
} from '../../mesh/wire/ip.ts';
import { enrollProofInput } from '../../mesh/wire/key-proof.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import type { MachineKey } from './machine-key.ts';
import { hostPortText, type ProbedServer } from './server-probe.ts';

const SCHEMA = 1;
const TIMEOUT_MS = 15_000;
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;
/** Names of which every server of the mesh bears one, whatever address it is reached at. */
export const SERVER_NAMES = ['clustermesh-apiserver.cilium.io', 'any.mesh.cilium.io'];

/** What the registry decided. */
export interface Enrolled {
  /** PEM: the machine's certificate and its intermediates. */
  readonly certificate: string;
  /** PEM: the authorities of the cluster. */
  readonly trustBundle: string;
  readonly clusterName: ClusterName;
  readonly clusterId: ClusterId;
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** `https://host:port`. */
  readonly etcdEndpoints: readonly string[];
  readonly registries: readonly HostPort[];
  readonly serverName: string;
  readonly tunnelPort: number;
  /** Where the call came from, as the registry saw it; undefined: it did not say. */
  readonly observedAddress: IpAddress | undefined;
  readonly machineName: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly podNetworks: readonly IpPrefix[];
}

const bytes = z.instanceof(Buffer).transform((buffer) => buffer.toString('utf8'));
const answerSchema = z.object({
  certificate: bytes,
  trust_bundle: bytes,
  cluster_name: z.string().transform(parseClusterName),
  cluster_id: z.number(),
  max_connected_clusters: z.number().default(255).transform(parseMaxConnectedClusters),
  etcd_endpoints: z.array(z.url({ protocol: /^https$/ })).min(1),
  registry_endpoints: z.array(z.string().transform(parseHostPort)).min(1),
  server_name: z.string().min(1),
  tunnel_port: z.number().int().min(1).max(65_535),
  observed_address: z.string().default(''),
  machine_name: z.string().min(1),
  namespace: z.string().default('default'),
  labels: z.record(z.string(), z.string()).default({}),
  pod_networks: z.array(z.string()).default([]),
});

/**
 * Enrols. May be repeated with the same token and key if the answer was lost. Throws MachineError: `unreachable`, `refused` with
 * the registry's words, `untrusted` for an answer that does not hold together.
 */
export async function enrol(
  server: HostPort,
  options: {
    readonly probed: ProbedServer;
    readonly token: EnrollmentToken;
    readonly key: MachineKey;
    readonly machineName: string;
    readonly addresses: readonly IpAddress[];
    readonly agentVersion: string;
    readonly signal: AbortSignal;
  },
): Promise<Enrolled> {
  const { probed, token, key, machineName, addresses, agentVersion, signal } = options;
  const proofInput = enrollProofInput({
    tokenId: token.id,
    machineName,
    publicKey: key.publicDer,
  });
  const request = {
    schema: SCHEMA,
    token_id: token.id,
    token_secret: token.secret,
    machine_name: machineName,
    addresses,
    public_key: key.publicDer,
    proof: key.sign(proofInput),
    agent_version: agentVersion,
  };
  const what = {
    proto: 'mesh/wire/registry.proto',
    service: 'isthmus.registry.v1.Enrollment',
    method: 'Enroll',
  };
  const names = [server.host, ...SERVER_NAMES];
  let answer: object;
  try {
    answer = await callUnary(what, request, {
      server,
      credentials: anonymousClientCredentials(probed.authority, names),
      // What the certificate is for is compared with all of the names.
      tlsName: ADDRESS_TLS_NAME,
      timeoutMs: TIMEOUT_MS,
      signal,
    });
  } catch (error) {
    throw toMachineError(error, hostPortText(server));
  }
  const enrolled = readAnswer(answer);
  if (enrolled.machineName !== machineName) {
    throw nonsense(`it is for machine ${JSON.stringify(enrolled.machineName)}`);
  }
  checkIssued(enrolled, { key, commonName: `machine-${machineName}` });
  return enrolled;
}

/**
 * Checks a certificate that was issued for `key`: it is of that key and name, and ends in the bundle. Throws MachineError
 * `untrusted`. Its dates are judged by `findDateFault`.
 */
export function checkIssued(
  issued: { readonly certificate: string; readonly trustBundle: string },
  expected: { readonly key: MachineKey; readonly commonName: string },
): void {
  const chain = certificatesIn(issued.certificate);
  const bundle = certificatesIn(issued.trustBundle);
  const [leaf] = chain;
  if (leaf === undefined) throw nonsense('it holds no certificate');
  const publicDer = leaf.publicKey.export({ type: 'spki', format: 'der' });
  if (!publicDer.equals(expected.key.publicDer)) {
    throw nonsense(`its certificate is of another key (${describeCertificate(leaf)})`);
  }
  if (!leaf.subject.split('\n').includes(`CN=${expected.commonName}`)) {
    throw nonsense(
      `its certificate is not for ${expected.commonName} (${describeCertificate(leaf)})`,
    );
  }
  let lowest = leaf;
  for (const next of chain.slice(1)) {
    if (!lowest.checkIssued(next) || !lowest.verify(next.publicKey)) break;
    lowest = next;
  }
  const isAnchored = bundle.some(
    (authority) => lowest.checkIssued(authority) && lowest.verify(authority.publicKey),
  );
  if (!isAnchored) {
    throw nonsense(`its certificate does not end in its bundle (${describeCertificate(leaf)})`);
  }
}

/** Every certificate of a PEM text. Throws MachineError `untrusted` for one that cannot be read. */
export function certificatesIn(pem: string): X509Certificate[] {
  return (pem.match(PEM_CERTIFICATE) ?? []).map((block) => {
    try {
      return new X509Certificate(block);
    } catch (cause) {
      throw nonsense(`a certificate in it cannot be read: ${reasonOf(cause)}`);
    }
  });
}

/** What is wrong with the dates of a certificate now, in words with what to do; undefined: nothing. */
export function dateProblem(pem: string, now: number): string | undefined {
  const [leaf] = certificatesIn(pem);
  const fault = leaf === undefined ? undefined : findDateFault(leaf, now);
  if (fault === undefined) return undefined;
  return fault.fault === 'expired'
    ? `this machine's ${fault.text}; if the clock is right, join again with a new token: clustermesh vm leave, then clustermesh vm join`
    : `this machine's ${fault.text}; set the clock of this machine (timedatectl set-ntp true)`;
}

/** An error of a call, in a machine's terms. */
export function toMachineError(error: unknown, where: string): unknown {
  if (!(error instanceof GrpcCallError)) return error;
  const { retryable, message } = error;
  const options = { retryable, cause: error };
  switch (error.code) {
    case 'unreachable':
      return new MachineError('unreachable', message, options);
    case 'untrusted':
      return new MachineError(
        'untrusted',
        `${message}; the registry at ${where} and this machine do not believe each other's certificates`,
        options,
      );
    case 'refused':
      return new MachineError('refused', message, options);
    default:
      return error.code satisfies never;
  }
}

function readAnswer(answer: object): Enrolled {
  try {
    const read = answerSchema.parse(answer);
    return {
      certificate: read.certificate,
      trustBundle: read.trust_bundle,
      clusterName: read.cluster_name,
      clusterId: parseClusterId(read.cluster_id, read.max_connected_clusters),
      maxConnectedClusters: read.max_connected_clusters,
      etcdEndpoints: read.etcd_endpoints,
      registries: read.registry_endpoints,
      serverName: read.server_name,
      tunnelPort: read.tunnel_port,
      observedAddress:
        read.observed_address === '' ? undefined : parseIpAddress(read.observed_address),
      machineName: read.machine_name,
      namespace: read.namespace,
      labels: read.labels,
      podNetworks: read.pod_networks.map(parseIpPrefix),
    };
  } catch (cause) {
    throw nonsense(reasonOf(cause), cause);
  }
}

function nonsense(why: string, cause?: unknown): MachineError {
  return new MachineError(
    'untrusted',
    `the registry's answer cannot be used: ${why}; bring agent and apiserver to one version`,
    { cause },
  );
}
