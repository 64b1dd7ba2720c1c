/** Where the registry of a cluster in Kubernetes is, and an administrator's certificates for it: from its Service and its Secret. */

import { connect } from 'node:net';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { z } from 'zod';
import { type KubernetesApi, openKubernetes } from '../clustermesh-apiserver/kubernetes/api.ts';
import { KubernetesError } from '../clustermesh-apiserver/kubernetes/kubernetes-error.ts';
import { RESOURCES, resourcePath } from '../clustermesh-apiserver/kubernetes/resource.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import { SECRET_NAMES } from '../pki/names.ts';
import { CliError } from './cli-error.ts';
import type { ClusterFlags } from './cluster-access.ts';
import type { RegistryPlace } from './registry-client.ts';

const NAMESPACE = 'kube-system';
const SERVICE = 'clustermesh-apiserver';
/** Name of the port, and its number where it has another name. */
const PORT = { name: 'registry', number: 2381 } as const;
const CONNECT_TIMEOUT_MS = 3000;
const MOST_NODES = 3;

const serviceSchema = z.object({
  spec: z.object({
    clusterIP: z.string().default(''),
    ports: z
      .array(
        z.object({
          name: z.string().default(''),
          port: z.number(),
          nodePort: z.number().optional(),
        }),
      )
      .default([]),
  }),
  status: z
    .object({
      loadBalancer: z
        .object({
          ingress: z
            .array(z.object({ ip: z.string().optional(), hostname: z.string().optional() }))
            .default([]),
        })
        .default({ ingress: [] }),
    })
    .default({ loadBalancer: { ingress: [] } }),
});
const nodesSchema = z.object({
  items: z.array(
    z.object({
      status: z
        .object({
          addresses: z.array(z.object({ type: z.string(), address: z.string() })).default([]),
        })
        .default({ addresses: [] }),
    }),
  ),
});
const secretSchema = z.object({ data: z.record(z.string(), z.base64()).default({}) });

/** A Service of an API server, cut down to what is used. */
export type RegistryService = z.infer<typeof serviceSchema>;

/** Finds the registry by the kubeconfig of `flags`. Throws CliError. */
export async function findRegistryInKubernetes(
  flags: ClusterFlags,
  signal: AbortSignal,
): Promise<{ place: RegistryPlace; where: string }> {
  const namespace = flags.namespace ?? NAMESPACE;
  try {
    await using api = await openApi(flags);
    const where = flags.context === undefined ? api.server : `context ${flags.context}`;
    const tls = await readCertificates(api, { namespace, where, signal });
    const service = serviceSchema.parse(
      await get(api, { kind: 'services', namespace, name: SERVICE, signal }),
    );
    const nodes = await nodeAddresses(api, signal);
    const places = registryPlaces(service, nodes);
    if (places.length === 0) {
      throw new CliError(
        'problem',
        `the Service ${namespace}/${SERVICE} of ${where} has no port ${PORT.name} (${PORT.number}): the registry is not offered there`,
      );
    }
    const address = await firstReachable(places, { where, signal });
    const certificates = `Secret ${namespace}/${SECRET_NAMES.admin} of ${where}`;
    return { place: { address, tls, certificates }, where };
  } catch (error) {
    throw explained(error);
  }
}

/** Where the registry may be reached, the best first: load balancer, port of a node, address in the cluster. Pure. */
export function registryPlaces(service: RegistryService, nodes: readonly string[]): HostPort[] {
  const { clusterIP, ports } = service.spec;
  const port =
    ports.find(({ name }) => name === PORT.name) ??
    ports.find(({ port: number }) => number === PORT.number);
  if (port === undefined) return [];
  const balanced = service.status.loadBalancer.ingress.flatMap(({ ip, hostname }) => {
    const host = ip ?? hostname;
    return host === undefined || host === '' ? [] : [{ host, port: port.port }];
  });
  const { nodePort } = port;
  const onNodes =
    nodePort === undefined
      ? []
      : nodes.slice(0, MOST_NODES).map((host) => ({ host, port: nodePort }));
  const inside =
    clusterIP === '' || clusterIP === 'None' ? [] : [{ host: clusterIP, port: port.port }];
  return [...balanced, ...onNodes, ...inside];
}

/** Opens the API server of a kubeconfig, or of the one in a list of them that has the context. */
async function openApi({ kubeconfig, context }: ClusterFlags): Promise<KubernetesApi> {
  const files = (kubeconfig ?? join(homedir(), '.kube', 'config'))
    .split(delimiter)
    .filter((file) => file !== '');
  let failure: unknown;
  for (const file of files) {
    try {
      return await openKubernetes({ kubeconfig: file, context, clock: systemClock });
    } catch (error) {
      failure ??= error;
    }
  }
  throw failure;
}

async function readCertificates(
  api: KubernetesApi,
  options: { readonly namespace: string; readonly where: string; readonly signal: AbortSignal },
): Promise<RegistryPlace['tls']> {
  const { namespace, where, signal } = options;
  const name = SECRET_NAMES.admin;
  const { data } = secretSchema.parse(await get(api, { kind: 'secrets', namespace, name, signal }));
  const read = (field: string): Buffer => {
    const content = data[field];
    if (content !== undefined && content !== '') return Buffer.from(content, 'base64');
    throw new CliError('problem', `the Secret ${namespace}/${name} of ${where} lacks ${field}`);
  };
  return { ca: read('ca.crt'), cert: read('tls.crt'), key: read('tls.key') };
}

async function nodeAddresses(api: KubernetesApi, signal: AbortSignal): Promise<string[]> {
  const { body } = await api.request({
    method: 'GET',
    path: resourcePath(RESOURCES.nodes),
    query: { limit: MOST_NODES },
    signal,
  });
  const of = (type: string): string[] =>
    nodesSchema
      .parse(body)
      .items.flatMap(({ status }) =>
        status.addresses.filter((entry) => entry.type === type).map(({ address }) => address),
      );
  const external = of('ExternalIP');
  return external.length > 0 ? external : of('InternalIP');
}

async function get(
  api: KubernetesApi,
  options: {
    readonly kind: 'services' | 'secrets';
    readonly namespace: string;
    readonly name: string;
    readonly signal: AbortSignal;
  },
): Promise<unknown> {
  const { kind, namespace, name, signal } = options;
  const path = resourcePath(RESOURCES[kind], { namespace, name });
  return (await api.request({ method: 'GET', path, signal })).body;
}

async function firstReachable(
  places: readonly HostPort[],
  { where, signal }: { readonly where: string; readonly signal: AbortSignal },
): Promise<HostPort> {
  const failures: string[] = [];
  for (const place of places) {
    const failure = await connectTo(place, signal);
    signal.throwIfAborted();
    if (failure === undefined) return place;
    failures.push(`${place.host} port ${place.port}: ${failure}`);
  }
  throw new CliError(
    'unreachable',
    `cannot reach the registry of ${where} (${failures.join('; ')}); forward a port to it with "kubectl port-forward" and give --registry and --certificates`,
  );
}

/** Why no connection can be made; undefined: one could. */
function connectTo({ host, port }: HostPort, signal: AbortSignal): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, signal, timeout: CONNECT_TIMEOUT_MS });
    const end = (failure: string | undefined): void => {
      socket.destroy();
      resolve(failure);
    };
    socket.once('connect', () => end(undefined));
    socket.once('timeout', () => end(`no answer in ${CONNECT_TIMEOUT_MS / 1000} s`));
    socket.once('error', (error) => end(error.message));
  });
}

function explained(error: unknown): unknown {
  if (!(error instanceof KubernetesError)) return error;
  switch (error.code) {
    case 'configuration':
      return new CliError('usage', error.message, { cause: error });
    case 'unavailable':
    case 'timeout':
      return new CliError('unreachable', error.message, { cause: error });
    default:
      return new CliError('problem', error.message, { cause: error });
  }
}
