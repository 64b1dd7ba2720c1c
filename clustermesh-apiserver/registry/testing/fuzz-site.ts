/** A listener with every way to enrol, for strangers who send whatever comes to their mind. */
import { sign } from 'node:crypto';
import { Writable } from 'node:stream';
import { createMemoryStore } from '../../../mesh/kvstore/memory.ts';
import { systemClock } from '../../../mesh/runtime/clock.ts';
import { createLogger } from '../../../mesh/runtime/log.ts';
import type { HostPort } from '../../../mesh/runtime/option-parsers.ts';
import { loadProtoFile } from '../../../mesh/runtime/proto-file.ts';
import { openTempDir } from '../../../mesh/testing/temp-dir.ts';
import {
  parseClusterId,
  parseClusterName,
  parseMaxConnectedClusters,
} from '../../../mesh/wire/ids.ts';
import { enrollNodeProofInput, enrollPeerProofInput } from '../../../mesh/wire/key-proof.ts';
import { createCa, createEnrollmentCa, issueCertificate } from '../../../pki/ca.ts';
import { writeEnrollmentCa, writeSecret } from '../../../pki/layout.ts';
import { serverLeaf } from '../../../pki/names.ts';
import { openIssuingAuthority } from '../certificate-authority.ts';
import { createEnrollment } from '../enrollment.ts';
import { createEnrollmentLimits } from '../enrollment-limits.ts';
import { listenEnrollment } from '../enrollment-listener.ts';
import { readClaimedKey } from '../key-claim.ts';
import { createMachineBook, type MachineBook } from '../machine-book.ts';
import { createNodeEnrollment, nodeEnrollmentMethod } from '../node-enrollment.ts';
import { createNodeTokenReview } from '../node-enrollment-review.ts';
import { createPeerEnrollment } from '../peer-enrollment.ts';
import { createTokenBook, type TokenBook } from '../token-book.ts';
import { enrollRequest, type MachineKeys, makeMachineKeys } from './enrollment-site.ts';

const ADDRESS = '192.0.2.7';
const MANY = Number.MAX_SAFE_INTEGER;
const ACCOUNT = { namespace: 'isthmus-system', name: 'clustermesh-agent' };
/** Tokens that the API server knows, and for whom they were made. */
const AUDIENCES: Readonly<Record<string, string>> = {
  'node.agent.token': 'isthmus-registry',
  'another.audience.token': 'https://kubernetes.default.svc',
};

/** One way to enrol. */
export interface FuzzedMethod {
  readonly name: 'Enroll' | 'EnrollNode' | 'EnrollPeer';
  readonly path: string;
  /** A request as it should be; `changes` replace fields after the proofs were made. */
  request(changes?: object): Buffer;
  /** Bytes at the end of a request that are no condition. */
  readonly idleBytes: number;
  /** Common name of the certificate that a request may end in, and its key. */
  readonly commonName: string;
  readonly keys: MachineKeys;
  /** What an answer holds. */
  read(answer: Buffer): { readonly certificate?: Buffer; readonly refused?: string };
}

/** The site. Disposing leaves nothing behind. */
export interface FuzzSite extends AsyncDisposable {
  readonly address: HostPort;
  readonly methods: readonly FuzzedMethod[];
  readonly tokens: TokenBook;
  readonly machines: MachineBook;
  /** What was logged of refusals. */
  readonly refusals: readonly { readonly from: string; readonly reason: string }[];
  readonly signal: AbortSignal;
}

/** Opens it: machine `vm`, node `n1` and peer `beta` may enrol, each with one key. Attempts are not limited. */
export async function openFuzzSite(): Promise<FuzzSite> {
  const clock = systemClock;
  const refusals: { from: string; reason: string }[] = [];
  const destination = new Writable({
    write(chunk, _encoding, done) {
      const { msg, from, reason } = JSON.parse(String(chunk));
      if (msg === 'an enrolment was refused') refusals.push({ from, reason });
      done();
    },
  });
  const logger = createLogger('test', { destination });
  const stopping = new AbortController();
  const { signal } = stopping;
  const dir = await openTempDir('enrollment-fuzz');
  const ca = await createCa();
  const server = await writeSecret(dir.path, 'server', {
    ca: ca.root,
    pair: await issueCertificate(ca, serverLeaf('alpha')),
  });
  const signing = await writeEnrollmentCa(dir.path, await createEnrollmentCa(ca));
  const files = { certFile: server.certificate, keyFile: server.privateKey, ownCaFile: server.ca };
  const authority = await openIssuingAuthority(
    { certFile: signing.certificate, keyFile: signing.privateKey, ownCaFile: server.ca },
    { ttlMs: 3_600_000, clock, signal, logger },
  );
  const store = createMemoryStore();
  const tokens = createTokenBook({ store, clock, logger });
  const machines = createMachineBook({
    store,
    publish: () => undefined,
    findConflict: () => undefined,
    ownAddresses: () => [],
    checksOf: () => [],
    graceMs: 60_000,
    clock,
    logger,
  });
  await machines.load(signal);
  const limits = createEnrollmentLimits({ clock, burst: MANY, totalBurst: MANY });
  const keys = {
    machine: await makeMachineKeys(),
    node: await makeMachineKeys(),
    peer: await makeMachineKeys(),
    peering: await makeMachineKeys(),
  };
  const cluster = {
    name: parseClusterName('alpha'),
    id: parseClusterId(1),
    max: parseMaxConnectedClusters(255),
  };
  const base = { authority, limits, clock, logger };
  const peering = readClaimedKey(keys.peering.spki);
  if (peering.kind === 'unusable') throw new Error(peering.reason);
  const peeringHash = peering.key.hash;
  const peers = createPeerEnrollment({
    ...base,
    cluster,
    peers: { keyHashOf: (name) => (name === 'beta' ? peeringHash : undefined) },
  });
  const nodes = createNodeEnrollment({
    ...base,
    offer: {
      kind: 'offered',
      review: createNodeTokenReview({
        api: { request: reviewToken },
        serviceAccount: ACCOUNT,
        logger,
      }),
      find: async () => ({ kind: 'there', uid: '' }),
    },
    ttlMs: 3_600_000,
  });
  const listener = await listenEnrollment({
    address: { host: '127.0.0.1', port: 0 },
    files,
    clusterName: 'alpha',
    enrollment: createEnrollment({
      ...base,
      tokens,
      machines: {
        ...machines,
        // Callers of a test come from loopback, which is no address of a machine.
        judgeAddresses: () => undefined,
        enrol: (enrolment, until) => machines.enrol({ ...enrolment, addresses: [ADDRESS] }, until),
      },
    }),
    methods: [
      nodeEnrollmentMethod(nodes, { ...cluster, gatePort: 2379, registryPort: 2381 }),
      peers.method,
    ],
    limits,
    socketLimits: { connectionsPerSource: 256, maxAgeMs: 600_000 },
    facts: () => ({
      clusterName: 'alpha',
      clusterId: 1,
      maxConnectedClusters: 255,
      etcdEndpoints: ['https://127.0.0.1:1'],
      registryEndpoints: ['127.0.0.1:1'],
      tunnelPort: 8472,
      podNetworks: [],
    }),
    clock,
    logger,
    signal,
  });
  const wish = { names: 'vm', namespace: 'default', labels: {}, addressRanges: [] };
  const { record, secret } = await tokens.create(
    { ...wish, ttlSeconds: 3600, uses: 1 },
    { by: 'admin-alpha', from: 'test' },
    signal,
  );
  return {
    address: listener.address,
    methods: [
      machineMethod({ id: record.id, secret }, keys.machine),
      nodeMethod(keys.node),
      peerMethod(keys.peering, keys.peer),
    ],
    tokens,
    machines,
    refusals,
    signal,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await listener[Symbol.asyncDispose]();
      await authority[Symbol.asyncDispose]();
      await store[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

/** As an API server that knows two tokens. */
async function reviewToken({ body }: { readonly body?: unknown }) {
  const { spec } = body as { readonly spec: { readonly token: string } };
  const audience = AUDIENCES[spec.token];
  const user = {
    username: `system:serviceaccount:${ACCOUNT.namespace}:${ACCOUNT.name}`,
    extra: {
      'authentication.kubernetes.io/pod-name': ['agent-x'],
      'authentication.kubernetes.io/node-name': ['n1'],
    },
  };
  const known = { authenticated: true, audiences: [audience], user };
  return { status: 201, body: { status: audience === undefined ? {} : known } };
}

function machineMethod(
  token: { readonly id: string; readonly secret: Buffer },
  keys: MachineKeys,
): FuzzedMethod {
  const machine = { token, name: 'vm', address: '127.0.0.1', keys };
  const agentVersion = 'test';
  return fuzzed('Enroll', {
    keys,
    commonName: 'machine-vm',
    message: enrollRequest(machine, { agent_version: agentVersion }),
    idleBytes: agentVersion.length + 2,
  });
}

function nodeMethod(keys: MachineKeys): FuzzedMethod {
  const [token = ''] = Object.keys(AUDIENCES);
  const agentVersion = 'test';
  return fuzzed('EnrollNode', {
    keys,
    commonName: 'node-n1',
    message: { ...nodeRequest(token, keys), agent_version: agentVersion },
    idleBytes: agentVersion.length + 2,
  });
}

/** An EnrollNodeRequest with a token, proven by `keys`. */
export function nodeRequest(token: string, keys: MachineKeys): object {
  const input = enrollNodeProofInput({ serviceAccountToken: token, publicKey: keys.spki });
  return {
    schema: 1,
    service_account_token: token,
    public_key: keys.spki,
    proof: sign('sha256', input, keys.privateKey),
  };
}

function peerMethod(peering: MachineKeys, keys: MachineKeys): FuzzedMethod {
  return fuzzed('EnrollPeer', {
    keys,
    commonName: 'remote-beta',
    message: peerRequest({ caller: 'beta', called: 'alpha' }, { peering, keys }),
    idleBytes: 0,
  });
}

/** An EnrollPeerRequest proven by both keys. */
export function peerRequest(
  names: { readonly caller: string; readonly called: string },
  { peering, keys }: { readonly peering: MachineKeys; readonly keys: MachineKeys },
): object {
  const input = enrollPeerProofInput({
    clusterName: names.caller,
    calledClusterName: names.called,
    peeringKey: peering.spki,
    publicKey: keys.spki,
  });
  return {
    schema: 1,
    cluster_name: names.caller,
    called_cluster_name: names.called,
    peering_key: peering.spki,
    public_key: keys.spki,
    peering_proof: sign('sha256', input, peering.privateKey),
    proof: sign('sha256', input, keys.privateKey),
  };
}

function fuzzed(
  name: FuzzedMethod['name'],
  what: Pick<FuzzedMethod, 'keys' | 'commonName' | 'idleBytes'> & { readonly message: object },
): FuzzedMethod {
  const service = loadProtoFile('mesh/wire/registry.proto')['isthmus.registry.v1.Enrollment'];
  const method = service === undefined || 'format' in service ? undefined : service[name];
  if (method === undefined) throw new Error(`registry.proto has no ${name}`);
  const { message, ...rest } = what;
  return {
    ...rest,
    name,
    path: method.path,
    request: (changes = {}) => method.requestSerialize({ ...message, ...changes }),
    read: (answer) => method.responseDeserialize(answer) as ReturnType<FuzzedMethod['read']>,
  };
}
