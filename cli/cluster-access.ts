/** The way to a cluster that commands ask: its registry, by address and certificates, or by what its API server says of both. */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { z } from 'zod';
import { type HostPort, parseHostPort } from '../mesh/runtime/option-parsers.ts';
import { CliError } from './cli-error.ts';
import {
  adminMethod,
  openRegistryClient,
  type RegistryClient,
  type RegistryPlace,
  registryError,
} from './registry-client.ts';

const TIMEOUT_MS = 30_000;

/** Which cluster, as the options of a command say it. */
export interface ClusterFlags {
  /** The registry; undefined: Kubernetes is asked. */
  readonly registry?: HostPort | undefined;
  /** Folder of an administrator's certificates. */
  readonly certificates?: string | undefined;
  /** Context of the kubeconfig. */
  readonly context?: string | undefined;
  /** Default: `~/.kube/config`. */
  readonly kubeconfig?: string | undefined;
  /** Namespace of the apiserver. */
  readonly namespace?: string | undefined;
}

/** A cluster that can be asked. */
export interface ClusterAccess extends Disposable {
  /** The cluster for messages: its context, or the address of its registry. */
  readonly where: string;
  /** Its name, as the administrator's certificate has it; undefined: that says none. */
  readonly clusterName: string | undefined;
  readonly client: RegistryClient;
  /**
   * Calls a method of the service Admin and parses its answer. Throws CliError: `unreachable`, or `problem` with the
   * registry's own words.
   */
  ask<T extends z.ZodType>(
    method: string,
    request: object,
    options: { readonly answer: T; readonly signal: AbortSignal; readonly timeoutMs?: number },
  ): Promise<z.infer<T>>;
  /** What a call of `client` failed with, in our words. */
  explain(error: unknown): unknown;
}

/**
 * Adds the options that say which cluster. `destination`: the other one of two, whose options begin with that word and have
 * no environment variables. `namespaceFlag` is for a command that has a `--namespace` of another meaning.
 */
export function addClusterOptions(
  command: Command,
  options: {
    readonly role?: 'destination';
    readonly namespaceFlag?: 'namespace' | 'apiserver-namespace';
  } = {},
): Command {
  const { role, namespaceFlag = 'namespace' } = options;
  const prefix = role === undefined ? '' : `${role}-`;
  const of = role === undefined ? 'the cluster' : `the ${role} cluster`;
  const option = (flags: string, help: string, env: string): Option => {
    const made = new Option(`--${prefix}${flags}`, help);
    return role === undefined ? made.env(env) : made;
  };
  return command
    .addOption(
      option(
        'registry <host:port>',
        `the registry of ${of}, with --${prefix}certificates; without it Kubernetes says where it is`,
        'ISTHMUS_REGISTRY',
      ).argParser(toHostPort),
    )
    .addOption(
      option(
        'certificates <dir>',
        'folder with ca.crt, tls.crt and tls.key of an administrator, as "clustermesh pki issue admin" writes it',
        'ISTHMUS_ADMIN_CERTIFICATES',
      ),
    )
    .addOption(
      option('context <name>', `context of the kubeconfig for ${of}`, 'ISTHMUS_KUBERNETES_CONTEXT'),
    )
    .addOption(
      option('kubeconfig <file>', 'kubeconfig file (default: ~/.kube/config)', 'KUBECONFIG'),
    )
    .addOption(
      option(
        `${namespaceFlag} <name>`,
        `namespace of the apiserver of ${of} (default: kube-system)`,
        'ISTHMUS_NAMESPACE',
      ),
    );
}

/** Options of the destination, as a command line has them. */
export interface DestinationFlags {
  readonly destinationRegistry?: HostPort | undefined;
  readonly destinationCertificates?: string | undefined;
  readonly destinationContext?: string | undefined;
  readonly destinationKubeconfig?: string | undefined;
  readonly destinationNamespace?: string | undefined;
}

/** The options of the destination, as those of one cluster. */
export function destinationFlags(flags: DestinationFlags): ClusterFlags {
  return {
    registry: flags.destinationRegistry,
    certificates: flags.destinationCertificates,
    context: flags.destinationContext,
    kubeconfig: flags.destinationKubeconfig,
    namespace: flags.destinationNamespace,
  };
}

/** Whether the options name a registry or a context. */
export function namesCluster({ registry, context }: ClusterFlags): boolean {
  return registry !== undefined || context !== undefined;
}

/**
 * Finds the registry and prepares a connection; the first call dials. Throws CliError: `usage` for options and certificates
 * that cannot be used, `unreachable` when Kubernetes or every address it names cannot be reached.
 */
export async function openClusterAccess(
  flags: ClusterFlags,
  { signal }: { readonly signal: AbortSignal },
): Promise<ClusterAccess> {
  const { place, where } = await findRegistry(flags, signal);
  const client = openRegistryClient(place);
  const explain = (error: unknown): unknown => registryError(error, place.address);
  return {
    where,
    clusterName: clusterNameOf(place.tls.cert),
    client,
    explain,
    async ask(method, request, { answer, signal: until, timeoutMs = TIMEOUT_MS }) {
      const response = await call(client, method, { request, timeoutMs, signal: until }).catch(
        (error: unknown) => {
          throw until.aborted ? until.reason : explain(error);
        },
      );
      const parsed = answer.safeParse(response);
      if (parsed.success) return parsed.data;
      throw new CliError(
        'problem',
        `cannot read the answer of the registry of ${where}: bring both to one version`,
      );
    },
    [Symbol.dispose]: () => client.close(),
  };
}

/** Asks one cluster once. */
export async function askCluster<T extends z.ZodType>(
  flags: ClusterFlags,
  question: { readonly method: string; readonly request: object; readonly answer: T },
  { signal }: { readonly signal: AbortSignal },
): Promise<z.infer<T>> {
  using access = await openClusterAccess(flags, { signal });
  // Awaited here: disposing closes the connection.
  return await access.ask(question.method, question.request, { answer: question.answer, signal });
}

async function findRegistry(
  flags: ClusterFlags,
  signal: AbortSignal,
): Promise<{ place: RegistryPlace; where: string }> {
  const { registry, certificates } = flags;
  if (registry === undefined) {
    if (flags.context === undefined && flags.kubeconfig === undefined) {
      throw new CliError(
        'usage',
        'say which cluster: --registry HOST:PORT with --certificates DIR, or --context NAME of a kubeconfig',
      );
    }
    // Loaded only where Kubernetes is used.
    const { findRegistryInKubernetes } = await import('./cluster-access-kubernetes.ts');
    return findRegistryInKubernetes(flags, signal);
  }
  if (flags.context !== undefined) {
    throw new CliError('usage', 'give either --registry or --context: they may be two clusters');
  }
  if (certificates === undefined) {
    throw new CliError(
      'usage',
      '--registry needs --certificates, the folder of an administrator: make one with "clustermesh pki issue admin"',
    );
  }
  // One after the other: of several that are missing the first one is named.
  const ca = await readOrThrow(join(certificates, 'ca.crt'));
  const cert = await readOrThrow(join(certificates, 'tls.crt'));
  const key = await readOrThrow(join(certificates, 'tls.key'));
  const where = `${registry.host} port ${registry.port}`;
  return { place: { address: registry, tls: { ca, cert, key }, certificates }, where };
}

function call(
  client: RegistryClient,
  method: string,
  options: {
    readonly request: object;
    readonly timeoutMs: number;
    readonly signal: AbortSignal;
  },
): Promise<object | undefined> {
  const { request, timeoutMs, signal } = options;
  const { path, requestSerialize, responseDeserialize } = adminMethod(method);
  return new Promise((resolve, reject) => {
    const unary = client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      { deadline: Date.now() + timeoutMs },
      (error, response) => {
        signal.removeEventListener('abort', cancel);
        if (error === null) resolve(response);
        else reject(error);
      },
    );
    const cancel = (): void => unary.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    if (signal.aborted) cancel();
  });
}

/** An administrator's common name is `admin-<cluster>`. */
function clusterNameOf(certificate: Buffer): string | undefined {
  const { subject } = new X509Certificate(certificate);
  return /^CN=admin-(.+)$/m.exec(subject)?.[1];
}

async function readOrThrow(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CliError('usage', `cannot read ${file}: ${why}`, { cause });
  }
}

function toHostPort(text: string): HostPort {
  try {
    return parseHostPort(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}
