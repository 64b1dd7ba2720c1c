/** A connection of an administrator to the registry of a cluster. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  clientChannelOptions,
  clientCredentials,
  dialTarget,
} from '../mesh/runtime/grpc-client.ts';
import { type HostPort, parseHostPort } from '../mesh/runtime/option-parsers.ts';
import { loadProtoFile } from '../mesh/runtime/proto-file.ts';
import { CliError } from './cli-error.ts';

const SERVICE = 'isthmus.registry.v1.Admin';
/** Every apiserver has this name, whatever address it is dialled at. */
const SERVER_NAME = 'clustermesh-apiserver.cilium.io';

/** Where the registry is, and who asks. */
export interface RegistryFlags {
  readonly registry: HostPort;
  readonly certificates: string;
}

/** Adds the options that `openRegistryClient` needs. */
export function addRegistryOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--registry <host:port>', "the registry of the cluster's apiserver")
        .env('ISTHMUS_REGISTRY')
        .makeOptionMandatory()
        .argParser(toHostPort),
    )
    .addOption(
      new Option(
        '--certificates <dir>',
        'folder with ca.crt, tls.crt and tls.key of an administrator, as "clustermesh pki issue admin" writes it',
      )
        .env('ISTHMUS_ADMIN_CERTIFICATES')
        .makeOptionMandatory(),
    );
}

/** Prepares a connection; the first call dials. Throws CliError for certificates that cannot be used. */
export async function openRegistryClient(flags: RegistryFlags): Promise<Client & Disposable> {
  const { registry, certificates } = flags;
  // One after the other: of several that are missing the first one is named.
  const ca = await readOrThrow(join(certificates, 'ca.crt'));
  const cert = await readOrThrow(join(certificates, 'tls.crt'));
  const key = await readOrThrow(join(certificates, 'tls.key'));
  let credentials: ReturnType<typeof clientCredentials>;
  try {
    credentials = clientCredentials({ ca, cert, key }, SERVER_NAME);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CliError('usage', `cannot use the certificates in ${certificates}: ${why}`, {
      cause,
    });
  }
  const client = new Client(
    dialTarget(registry.host, registry.port),
    credentials,
    clientChannelOptions({ tlsName: SERVER_NAME, authority: SERVER_NAME }),
  );
  return Object.assign(client, { [Symbol.dispose]: () => client.close() });
}

/** A method of the service Admin of registry.proto. */
export function adminMethod(name: string): MethodDefinition<object, object> {
  const service = loadProtoFile('mesh/wire/registry.proto')[SERVICE];
  const method = service === undefined || 'format' in service ? undefined : service[name];
  if (method === undefined || typeof method !== 'object' || !('requestSerialize' in method)) {
    throw new Error(`registry.proto does not define ${SERVICE}.${name}`);
  }
  return method;
}

/** What a call failed with, in the words of the registry where it has answered. */
export function registryError(error: unknown, { registry }: RegistryFlags): unknown {
  const { code, details } = error as Partial<ServiceError>;
  if (typeof code !== 'number' || details === undefined) return error;
  if (code === status.UNAVAILABLE || code === status.DEADLINE_EXCEEDED) {
    const where = `${registry.host} port ${registry.port}`;
    return new CliError('unreachable', `cannot ask the registry at ${where}: ${details}`, {
      cause: error,
    });
  }
  return new CliError('problem', details, { cause: error });
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
