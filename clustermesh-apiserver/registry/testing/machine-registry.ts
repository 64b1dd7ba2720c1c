/** A registry with its publisher over a store, and machines that talk to it over gRPC, for tests. */
import { readFile } from 'node:fs/promises';
import { Client, type ClientDuplexStream, type MethodDefinition } from '@grpc/grpc-js';
import type { KvStore } from '../../../mesh/kvstore/kvstore.ts';
import { systemClock } from '../../../mesh/runtime/clock.ts';
import {
  clientChannelOptions,
  clientCredentials,
  dialTarget,
  type TlsMaterial,
} from '../../../mesh/runtime/grpc-client.ts';
import { createLogger } from '../../../mesh/runtime/log.ts';
import { loadProtoFile } from '../../../mesh/runtime/proto-file.ts';
import type { TempDir } from '../../../mesh/testing/temp-dir.ts';
import {
  type CertificateFiles,
  createTestAuthority,
  type TestAuthority,
} from '../../../mesh/testing/test-certificates.ts';
import { parseIpPrefix } from '../../../mesh/wire/ip.ts';
import { kindsOf } from '../../convert/published-sets.ts';
import { type PushedPublisher, startPublisher } from '../../testing/pushed-publisher.ts';
import { createMachineBook, type MachineBook } from '../machine-book.ts';
import { MACHINES_PREFIX } from '../machine-record.ts';
import { createNodeBook } from '../node-book.ts';
import { createPolicyBoard } from '../policy-board.ts';
import { listenRegistry, type Registry } from '../registry.ts';
import { createSessionBoard, MACHINE_SESSIONS_PREFIX } from '../session-board.ts';

const METHOD = '/isthmus.registry.v1.Registry/Session';

/** One replica: publisher, books and listener. Disposing ends it, as a process that is told to stop. */
export interface MachineReplica extends AsyncDisposable {
  readonly pushed: PushedPublisher;
  readonly machines: MachineBook;
  readonly registry: Registry;
}

/** What a stream of a machine has heard. */
export interface MachineStream {
  send(message: object): void;
  /** Messages of the registry, oldest first. */
  readonly heard: readonly Readonly<Record<string, unknown>>[];
  /** Why it ended, in the registry's words; undefined while it has not. Empty: the registry has ended it in order. */
  readonly ended: string | undefined;
  close(): void;
}

/** Makes the CA and the server's certificate of cluster alpha in a directory. */
export async function createRegistryAuthority(
  dir: TempDir,
): Promise<{ readonly authority: TestAuthority; readonly server: CertificateFiles }> {
  const authority = await createTestAuthority(dir);
  const server = await authority.issue('server', { names: ['alpha.mesh.cilium.io'] });
  return { authority, server };
}

/** Starts a replica that tells its objects itself through `pushed`; sets are whole from the beginning. */
export async function startMachineReplica(options: {
  /** Its own client of etcd; ends with it. */
  readonly store: KvStore;
  readonly server: CertificateFiles;
  readonly graceMs: number;
  readonly peers?: () => readonly string[];
  readonly port?: number;
}): Promise<MachineReplica> {
  const { store, server, graceMs } = options;
  const clock = systemClock;
  const logger = createLogger('test', { level: 'silent' });
  const ending = new AbortController();
  const { signal } = ending;
  const pushed = startPublisher(store);
  const { publisher } = pushed;
  const machines = createMachineBook({
    store,
    publish: publisher.setMachine,
    findConflict: publisher.findMachineConflict,
    checksOf: publisher.checksOf,
    ownAddresses: () => [],
    graceMs,
    replicas: {
      board: createSessionBoard({
        store,
        prefixes: { sessions: MACHINE_SESSIONS_PREFIX, kept: MACHINES_PREFIX },
        clock,
        logger,
      }),
      fence: () => publisher.fence,
    },
    clock,
    logger,
  });
  await machines.load(signal);
  pushed.synced(...kindsOf('any-cni'));
  await publisher.ready;
  const book = createNodeBook({
    store,
    publish: publisher.setNodeFacts,
    findConflict: publisher.findNodeConflict,
    graceMs,
    clock,
    logger,
  });
  const policies = createPolicyBoard({ store, isHere: () => true, clock, logger });
  const registry = await listenRegistry({
    address: { host: '127.0.0.1', port: options.port ?? 0 },
    files: { certFile: server.certFile, keyFile: server.keyFile, ownCaFile: server.caFile },
    clusterName: 'alpha',
    book,
    policies,
    machines: {
      book: machines,
      sources: {
        checksOf: publisher.checksOf,
        checksRevision: () => publisher.checksRevision,
        peers: options.peers ?? (() => []),
      },
    },
    signal,
    logger,
  });
  const running = Promise.all([machines.run(signal), book.run(signal), policies.run(signal)]);
  return {
    pushed,
    machines,
    registry,
    async [Symbol.asyncDispose]() {
      await registry[Symbol.asyncDispose]();
      ending.abort();
      await running;
      await pushed[Symbol.asyncDispose]();
    },
  };
}

/** Enrols a machine as a token would let it: any address of 192.0.2.0/24 and 2001:db8::/32. */
export async function enrolMachineAt(
  { machines }: Pick<MachineReplica, 'machines'>,
  name: string,
  more: { readonly labels?: Readonly<Record<string, string>>; readonly namespace?: string } = {},
): Promise<void> {
  const outcome = await machines.enrol(
    {
      name,
      namespace: more.namespace ?? 'demo',
      labels: more.labels ?? { app: 'db' },
      addressRanges: [parseIpPrefix('192.0.2.0/24'), parseIpPrefix('2001:db8::/32')],
      addresses: ['192.0.2.250'],
      key: { hash: `key-of-${name}`, expiresAt: Date.now() + 3_600_000 },
      tokenId: 'test',
      agentVersion: 'test',
    },
    new AbortController().signal,
  );
  if (outcome.kind !== 'taken') throw new Error(outcome.reason);
}

/** Opens a stream as the agent of a machine does; nothing is said yet. */
export async function openMachineStream(
  address: { readonly host: string; readonly port: number },
  certificate: CertificateFiles,
): Promise<MachineStream> {
  const [ca, cert, key] = await Promise.all([
    readFile(certificate.caFile),
    readFile(certificate.certFile),
    readFile(certificate.keyFile),
  ]);
  return dialMachineStream(address, { ca, cert, key });
}

/** The same with a certificate that is in no file. */
export function dialMachineStream(
  address: { readonly host: string; readonly port: number },
  { ca, cert, key }: TlsMaterial,
): MachineStream {
  const name = 'alpha.mesh.cilium.io';
  const client = new Client(
    dialTarget(address.host, address.port),
    clientCredentials({ ca, cert, key }, name),
    clientChannelOptions({ tlsName: name, authority: name }),
  );
  const method = sessionMethod();
  const call: ClientDuplexStream<object, never> = client.makeBidiStreamRequest(
    METHOD,
    (message: object) => method.requestSerialize(message),
    (bytes) => method.responseDeserialize(bytes) as never,
  );
  const heard: Readonly<Record<string, unknown>>[] = [];
  let ended: string | undefined;
  call.on('data', (message) => heard.push(message));
  call.on('error', (error) => {
    ended ??= error.message;
  });
  call.on('end', () => {
    ended ??= '';
  });
  return {
    send: (message) => call.write(message),
    heard,
    get ended() {
      return ended;
    },
    close() {
      call.cancel();
      client.close();
    },
  };
}

/** A greeting of a machine of cluster alpha. */
export function machineHello(name: string, bootId: string, runId = `run-${bootId}`): object {
  const hello = { schema: 1, cluster_name: 'alpha', node_name: name, agent_version: 'test' };
  return { hello: { ...hello, instance_id: bootId, run_id: runId } };
}

function sessionMethod(): MethodDefinition<object, object> {
  const service = loadProtoFile('mesh/wire/registry.proto')['isthmus.registry.v1.Registry'];
  const method = service === undefined || 'format' in service ? undefined : service.Session;
  if (method === undefined || typeof method !== 'object' || !('requestSerialize' in method)) {
    throw new Error('registry.proto does not define Registry.Session');
  }
  return method;
}
