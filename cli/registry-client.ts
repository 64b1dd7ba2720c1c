/** A connection of an administrator to the registry of a cluster. */
import { Client, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import {
  clientChannelOptions,
  clientCredentials,
  dialTarget,
  type TlsMaterial,
} from '../mesh/runtime/grpc-client.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import { loadProtoFile } from '../mesh/runtime/proto-file.ts';
import { CliError } from './cli-error.ts';

const SERVICE = 'isthmus.registry.v1.Admin';
/** Every apiserver has this name, whatever address it is dialled at. */
const SERVER_NAME = 'clustermesh-apiserver.cilium.io';

/** Where the registry is, and who asks. */
export interface RegistryPlace {
  readonly address: HostPort;
  readonly tls: TlsMaterial;
  /** Where the certificates are from, for messages. */
  readonly certificates: string;
}

/** A connection; disposing closes it. */
export type RegistryClient = Client & Disposable;

/** Prepares a connection; the first call dials. Throws CliError for certificates that cannot be used. */
export function openRegistryClient(place: RegistryPlace): RegistryClient {
  const { address, certificates } = place;
  let credentials: ReturnType<typeof clientCredentials>;
  try {
    credentials = clientCredentials(place.tls, SERVER_NAME);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CliError('usage', `cannot use the certificates in ${certificates}: ${why}`, {
      cause,
    });
  }
  const client = new Client(
    dialTarget(address.host, address.port),
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
export function registryError(error: unknown, { host, port }: HostPort): unknown {
  const { code, details } = error as Partial<ServiceError>;
  if (typeof code !== 'number' || details === undefined) return error;
  if (code === status.UNAVAILABLE || code === status.DEADLINE_EXCEEDED) {
    return new CliError(
      'unreachable',
      `cannot ask the registry at ${host} port ${port}: ${details}`,
      { cause: error },
    );
  }
  return new CliError('problem', details, { cause: error });
}
