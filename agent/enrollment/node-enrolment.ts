/** Asking the registry for the certificate of this node, and judging its answer. */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { z } from 'zod';
import { callUnary } from '../../mesh/runtime/grpc-call.ts';
import { ADDRESS_TLS_NAME, anonymousClientCredentials } from '../../mesh/runtime/grpc-client.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { type ClusterName, parseClusterName } from '../../mesh/wire/ids.ts';
import { enrollNodeProofInput } from '../../mesh/wire/key-proof.ts';
import { checkIssued, SERVER_NAMES, toMachineError } from '../machine/enrolment.ts';
import { MachineError, reasonOf } from '../machine/machine-error.ts';
import type { MachineCertificates } from '../machine/machine-files.ts';
import { makeMachineKey } from '../machine/machine-key.ts';
import { hostPortText } from '../machine/server-probe.ts';
import type { NodeRecord } from './node-record.ts';

const SCHEMA = 1;
const TIMEOUT_MS = 15_000;
const PEM_BEGIN = '-----BEGIN CERTIFICATE-----';

/** Who this agent is, and by what it enrols. */
export interface NodeEnrolmentOptions {
  readonly server: HostPort;
  readonly tokenFile: string;
  readonly trustedCaFile: string;
  readonly nodeName: string;
  readonly cluster: { readonly name: ClusterName; readonly id: number };
  readonly agentVersion: string;
  readonly signal: AbortSignal;
}

const port = z.number().int().min(1).max(65_535);
const pem = z.instanceof(Buffer).transform((buffer) => buffer.toString('utf8'));
const answerSchema = z.object({
  certificate: pem,
  trust_bundle: pem,
  cluster_name: z.string().transform(parseClusterName),
  cluster_id: z.number(),
  gate_port: port,
  registry_port: port,
  server_name: z.string().min(1),
  node_name: z.string().min(1),
});

/**
 * Enrols, with the files as they are now and a new key. Throws MachineError: `state` for a file that cannot be read, `unreachable`,
 * `refused` with the registry's words, `untrusted` for an answer that does not hold together, `other` for one of another cluster
 * or node.
 */
export async function enrolNode(
  options: NodeEnrolmentOptions,
): Promise<{ readonly record: NodeRecord; readonly certificates: MachineCertificates }> {
  const { server, nodeName, cluster, agentVersion, signal } = options;
  const token = readGiven(options.tokenFile, '--enrollment-token-file').trim();
  const authority = readGiven(options.trustedCaFile, '--enrollment-trusted-ca-file');
  const key = await makeMachineKey();
  const request = {
    schema: SCHEMA,
    service_account_token: token,
    public_key: key.publicDer,
    proof: key.sign(enrollNodeProofInput({ serviceAccountToken: token, publicKey: key.publicDer })),
    agent_version: agentVersion,
  };
  const what = {
    proto: 'mesh/wire/registry.proto',
    service: 'isthmus.registry.v1.Enrollment',
    method: 'EnrollNode',
  };
  const answer = await callUnary(what, request, {
    server,
    credentials: credentialsFor(authority, options),
    tlsName: ADDRESS_TLS_NAME,
    timeoutMs: TIMEOUT_MS,
    signal,
  }).catch((error: unknown) => {
    throw toMachineError(error, hostPortText(server));
  });
  const read = answerSchema.safeParse(answer);
  if (!read.success) {
    throw new MachineError(
      'untrusted',
      `the registry's answer cannot be used: ${reasonOf(read.error)}; bring agent and apiserver to one version`,
    );
  }
  const { data } = read;
  if (data.cluster_name !== cluster.name || data.cluster_id !== cluster.id) {
    throw new MachineError(
      'other',
      `the registry at ${hostPortText(server)} is of cluster ${data.cluster_name} (${data.cluster_id}), and this agent of ${cluster.name} (${cluster.id}): correct --enrollment-address, or --cluster-name and --cluster-id`,
    );
  }
  if (data.node_name !== nodeName) {
    throw new MachineError(
      'other',
      `by its token this agent runs on node ${data.node_name}, and it was told ${nodeName}: give --node-name the name of the Node`,
    );
  }
  const certificates = {
    ca: data.trust_bundle,
    certificate: data.certificate,
    key: key.privatePem,
  };
  checkIssued(
    { certificate: data.certificate, trustBundle: data.trust_bundle },
    { key, commonName: `node-${nodeName}` },
  );
  const record: NodeRecord = {
    name: nodeName,
    clusterName: data.cluster_name,
    clusterId: data.cluster_id,
    enrollment: server,
    registry: { host: server.host, port: data.registry_port },
    etcdEndpoints: [`https://${hostPortText({ host: server.host, port: data.gate_port })}`],
    serverName: data.server_name,
  };
  return { record, certificates };
}

/** A name has to be one of the certificate's, since the gate is dialled by it, too; at an address any server of the mesh will do. */
function credentialsFor(
  authority: string,
  { server, trustedCaFile }: Pick<NodeEnrolmentOptions, 'server' | 'trustedCaFile'>,
) {
  const { host } = server;
  try {
    if (!authority.includes(PEM_BEGIN)) throw new Error('it holds no certificate');
    return anonymousClientCredentials(
      authority,
      isIP(host) === 0 ? [host] : [host, ...SERVER_NAMES],
    );
  } catch (cause) {
    throw new MachineError(
      'state',
      `cannot use ${trustedCaFile}: ${reasonOf(cause)}: expected the cluster's CA in PEM form`,
      { cause },
    );
  }
}

function readGiven(path: string, flag: string): string {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new MachineError('state', `cannot read ${path} of ${flag}: ${reasonOf(cause)}`, {
      retryable: true,
      cause,
    });
  }
  if (text.trim() !== '') return text;
  throw new MachineError('state', `${path} of ${flag} is empty`, { retryable: true });
}
