/** A cluster that takes machines: real TLS, real tokens and sessions, in this process, with what it keeps in memory. */
import { createServer } from 'node:net';
import type { Test } from 'tap';
import type { HealthCheck } from '../../../clustermesh-apiserver/convert/health-check.ts';
import type { Machine } from '../../../clustermesh-apiserver/convert/machine.ts';
import { openIssuingAuthority } from '../../../clustermesh-apiserver/registry/certificate-authority.ts';
import { createEnrollment } from '../../../clustermesh-apiserver/registry/enrollment.ts';
import { createEnrollmentLimits } from '../../../clustermesh-apiserver/registry/enrollment-limits.ts';
import { listenEnrollment } from '../../../clustermesh-apiserver/registry/enrollment-listener.ts';
import { createMachineBook } from '../../../clustermesh-apiserver/registry/machine-book.ts';
import { createNodeBook } from '../../../clustermesh-apiserver/registry/node-book.ts';
import { createPolicyBoard } from '../../../clustermesh-apiserver/registry/policy-board.ts';
import { listenRegistry } from '../../../clustermesh-apiserver/registry/registry.ts';
import { createRenewal } from '../../../clustermesh-apiserver/registry/renewal.ts';
import { createTokenBook } from '../../../clustermesh-apiserver/registry/token-book.ts';
import { parseTokenWish } from '../../../clustermesh-apiserver/registry/token-wish.ts';
import { createMemoryStore } from '../../../mesh/kvstore/memory.ts';
import { systemClock } from '../../../mesh/runtime/clock.ts';
import { createLogger } from '../../../mesh/runtime/log.ts';
import type { HostPort } from '../../../mesh/runtime/option-parsers.ts';
import { openTempDir, type TempDir } from '../../../mesh/testing/temp-dir.ts';
import { anchorOf, type EnrollmentToken } from '../../../mesh/wire/enrollment-token.ts';
import { parseIpAddress, parseIpPrefix } from '../../../mesh/wire/ip.ts';
import {
  type CertificateAuthority,
  createCa,
  createEnrollmentCa,
  issueCertificate,
} from '../../../pki/ca.ts';
import { type SecretFiles, writeSecret } from '../../../pki/layout.ts';
import { serverLeaf } from '../../../pki/names.ts';
import type { Surroundings } from '../surroundings.ts';

/** The cluster, and what a test looks at. */
export interface MachineCluster {
  readonly dir: TempDir;
  /** Where machines enrol. */
  readonly server: HostPort;
  /** Machines that are published now. */
  readonly published: ReadonlyMap<string, Machine>;
  readonly book: ReturnType<typeof createMachineBook>;
  token(wish: {
    readonly names: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly address_ranges?: readonly string[];
  }): Promise<EnrollmentToken>;
  /** Puts another authority in the place of the one that signs machines, by the same root. */
  replaceEnrollmentAuthority(): Promise<void>;
  /** What machines are told from now on. */
  tell(settings: {
    readonly peers?: readonly string[];
    readonly checks?: readonly HealthCheck[];
  }): void;
}

/**
 * Opens one for a test. `ttlMs`: life of the machines' certificates; `seenAs`: where their calls seem
 * to come from, by default the address of `testSurroundings`.
 */
export async function openMachineCluster(
  t: Test,
  options: {
    readonly name?: string;
    readonly ttlMs?: number;
    readonly podNetworks?: readonly string[];
    readonly seenAs?: string;
  } = {},
): Promise<MachineCluster> {
  const { name = 'alpha', ttlMs = 3_600_000, podNetworks = [] } = options;
  const seenAs = parseIpAddress(options.seenAs ?? '192.0.2.10');
  const clock = systemClock;
  const logger = createLogger('test', { level: 'silent' });
  const ending = new AbortController();
  const { signal } = ending;
  const dir = await openTempDir('machine-cluster');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const { ca, enrolling, pair } = await authorityOf(name);
  const server = await writeSecret(dir.path, 'server', { ca: ca.root, pair });
  const writeEnrolling = (by: CertificateAuthority): Promise<SecretFiles> =>
    writeSecret(dir.path, 'enrollment', {
      ca: ca.root,
      pair: { certificate: by.chain.join(''), privateKey: by.privateKey },
    });
  const intermediate = await writeEnrolling(enrolling);
  const files = { certFile: server.certificate, keyFile: server.privateKey, ownCaFile: server.ca };
  const store = createMemoryStore();
  const published = new Map<string, Machine>();
  let peers: readonly string[] = [];
  let checks: readonly HealthCheck[] = [];
  let revision = 1;
  const book = createMachineBook({
    store,
    publish: (machine, value) => {
      if (value === undefined) published.delete(machine);
      else published.set(machine, value);
    },
    findConflict: () => undefined,
    ownAddresses: () => [],
    checksOf: () => checks,
    graceMs: 60_000,
    clock,
    logger,
  });
  await book.load(signal);
  const authority = await openIssuingAuthority(
    {
      certFile: intermediate.certificate,
      keyFile: intermediate.privateKey,
      ownCaFile: intermediate.ca,
    },
    { ttlMs, clock, signal, logger },
  );
  const tokens = createTokenBook({ store, clock, logger });
  const limits = createEnrollmentLimits({ clock });
  const enrollment = createEnrollment({
    tokens,
    machines: book,
    authority,
    limits,
    clock,
    logger,
  });
  const node = { publish: () => undefined, findConflict: () => undefined };
  const registry = await listenRegistry({
    address: { host: '127.0.0.1', port: 0 },
    files,
    clusterName: name,
    book: createNodeBook({ ...node, store, graceMs: 1000, clock, logger }),
    policies: createPolicyBoard({ store, isHere: () => true, clock, logger }),
    machines: {
      book,
      sources: { checksOf: () => checks, checksRevision: () => revision, peers: () => peers },
    },
    renewal: createRenewal({ machines: book, authority, logger }),
    signal,
    logger,
  });
  // Stands for the gate: machines look whether it is reached.
  const gate = createServer((socket) => socket.destroy());
  const gatePort = await new Promise<number>((resolve) => {
    gate.listen(0, '127.0.0.1', () => {
      const address = gate.address();
      resolve(typeof address === 'object' && address !== null ? address.port : 0);
    });
  });
  const listener = await listenEnrollment({
    address: { host: '127.0.0.1', port: 0 },
    files,
    clusterName: name,
    enrollment: {
      // Calls come by the loopback, where no machine has its address.
      enrol: (call) => enrollment.enrol({ ...call, from: seenAs }),
      get status() {
        return enrollment.status;
      },
    },
    limits,
    facts: () => ({
      clusterName: name,
      clusterId: 1,
      maxConnectedClusters: 255,
      etcdEndpoints: [`https://127.0.0.1:${gatePort}`],
      registryEndpoints: [`127.0.0.1:${registry.address.port}`],
      tunnelPort: 8472,
      podNetworks,
    }),
    clock,
    logger,
    signal,
  });
  const running = book.run(signal);
  t.teardown(async () => {
    ending.abort();
    await registry[Symbol.asyncDispose]();
    await listener[Symbol.asyncDispose]();
    await authority[Symbol.asyncDispose]();
    await new Promise((resolve) => gate.close(resolve));
    await running;
    await store[Symbol.asyncDispose]();
  });
  return {
    dir,
    server: listener.address,
    published,
    book,
    async token(wish) {
      const actor = { by: 'test', from: '127.0.0.1' };
      const made = await tokens.create(parseTokenWish(wish), actor, signal);
      return { id: made.record.id, secret: made.secret, anchor: anchorOf(ca.root) };
    },
    async replaceEnrollmentAuthority() {
      await writeEnrolling(await createEnrollmentCa(ca));
    },
    tell(settings) {
      peers = settings.peers ?? peers;
      checks = settings.checks ?? checks;
      revision += 1;
    },
  };
}

/** Authorities of clusters by name: keys take long to make, and tests do not mind sharing them. */
const authorities = new Map<string, ReturnType<typeof makeAuthority>>();

function authorityOf(name: string): ReturnType<typeof makeAuthority> {
  const known = authorities.get(name) ?? makeAuthority(name);
  authorities.set(name, known);
  return known;
}

async function makeAuthority(name: string) {
  const ca = await createCa();
  const enrolling = await createEnrollmentCa(ca);
  return { ca, enrolling, pair: await issueCertificate(ca, serverLeaf(name)) };
}

/** A machine of a test's own making: fit for everything, at one address. */
export function testSurroundings(
  changes: Partial<Surroundings> & { readonly address?: string } = {},
): Surroundings {
  const address = parseIpAddress(changes.address ?? '192.0.2.10');
  return {
    userId: 0,
    now: () => Date.now(),
    datapathProblems: () => [],
    ownAddresses: () => [
      { address, network: parseIpPrefix(`${address}/24`), interfaceName: 'eth0' },
    ],
    mtus: async () => new Map([['eth0', 1500]]),
    resolve: async () => [parseIpAddress('127.0.0.1')],
    routeTo: async () => ({ interfaceName: 'eth0', source: address }),
    connectProblem: async () => undefined,
    udpPortHolder: () => undefined,
    freeBytes: () => 1024 ** 3,
    isAgentAnswering: async () => false,
    namesIn: () => [],
    kubeProxy: async () => undefined,
    ...changes,
  };
}
