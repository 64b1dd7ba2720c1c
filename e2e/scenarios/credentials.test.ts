import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
} from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client, type ServiceError } from '@grpc/grpc-js';
import { type Test, test } from 'tap';
import { FORBIDDEN_METHODS } from '../../clustermesh-apiserver/gate/etcd-methods.ts';
import { openRawClient } from '../../clustermesh-apiserver/gate/testing/raw-client.ts';
import type { EtcdTls } from '../../mesh/kvstore/etcd-endpoint.ts';
import { callUnary } from '../../mesh/runtime/grpc-call.ts';
import { anonymousClientCredentials, clientCredentials } from '../../mesh/runtime/grpc-client.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import { renewProofInput } from '../../mesh/wire/key-proof.ts';
import {
  type CertificateAuthority,
  createCa,
  issueForKey,
  type LeafOptions,
} from '../../pki/ca.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import {
  adminLeaf,
  localLeaf,
  machineLeaf,
  nodeLeaf,
  remoteLeaf,
  serverLeaf,
} from '../../pki/names.ts';
import { REGISTRY_PORT } from '../lab/apiserver.ts';
import { enrollmentCaFiles, peerTrustFolder } from '../lab/certificates.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { reachNode } from '../lab/reach.ts';
import { parseTopology } from '../lab/topology.ts';

const skip = labSkipReason(process.env);
const PROTO = 'mesh/wire/registry.proto';
const PACKAGE = 'isthmus.registry.v1';
const SERVER_NAME = 'alpha.mesh.cilium.io';
const TIMEOUT_MS = 15_000;
const GATE_PORT = 2379;
/** A cluster with machines that are enrolled and run no agent. */
const TOPOLOGY = parseTopology({
  clusters: [
    {
      name: 'alpha',
      id: 1,
      podCidrs: ['10.1.0.0/16'],
      serviceCidrs: ['10.101.0.0/16'],
      nodes: ['alpha-1'],
    },
  ],
  machines: ['m1', 'm2', 'gone'].map((name) => ({ name, cluster: 'alpha', joined: false })),
});

/** What opens nothing by itself, and what it is given by enrolling: tried where there is an API server, and peers by objects. */
const ENROLLING: Readonly<Record<string, string>> = {
  "the token of a node's agent, on n1": 'a node, n1',
  "a peer's peering key": 'what a peer reads with',
};

/** Key that certificates are asked for. */
const RENEWED = newKey();
/** Key of everybody who shows a certificate of ours. */
const SHOWN_KEY = newKey().privateKey;

/** A cluster's control plane as strangers meet it, and what its credentials are made of. */
interface Site {
  /** Ports of our loopback that lead to gate and registry. */
  readonly gatePort: number;
  readonly registryPort: number;
  readonly own: CertificateAuthority;
  readonly enrolling: CertificateAuthority;
  readonly beta: CertificateAuthority;
  readonly stranger: CertificateAuthority;
}

/** What somebody shows; nothing at all where it is undefined. */
type Shown = Pick<EtcdTls, 'cert' | 'key'> | undefined;

async function openSite(t: Test, lab: Lab): Promise<Site> {
  const cluster = lab.cluster('alpha');
  const [beta, stranger] = await Promise.all([createCa(), createCa()]);
  await writePrivateFile(join(peerTrustFolder(cluster), 'beta.crt'), beta.root);
  const gate = await reachNode(lab, 'alpha-1', GATE_PORT);
  t.teardown(() => gate[Symbol.asyncDispose]());
  const registry = await reachNode(lab, 'alpha-1', REGISTRY_PORT);
  t.teardown(() => registry[Symbol.asyncDispose]());
  const own = lab.certificates.get('alpha')!.ca;
  const files = enrollmentCaFiles(cluster);
  const certificate = await readFile(files.certificate, 'utf8');
  const privateKey = await readFile(files.privateKey, 'utf8');
  const site = {
    gatePort: gate.port,
    registryPort: registry.port,
    own,
    enrolling: { certificate, privateKey, root: own.root, chain: [certificate] },
    beta,
    stranger,
  };
  // The gate takes a new peer's authority up when it sees the file.
  await lab.waitFor('the peer to be trusted', async () =>
    canRead(site, certificateOf(beta, remoteLeaf('beta')), 'cilium/state/'),
  );
  return site;
}

/** A certificate by an authority; all have one key, since what counts is who vouches for which name. */
function certificateOf(ca: CertificateAuthority, leaf: LeafOptions): NonNullable<Shown> {
  const publicKey = createPublicKey(SHOWN_KEY);
  const key = SHOWN_KEY.export({ type: 'pkcs8', format: 'pem' }).toString();
  return { cert: issueForKey(ca, { ...leaf, publicKey }), key };
}

/** Calls a method of the registry's own listener; false where it is refused. */
async function canCall(
  site: Site,
  shown: Shown,
  what: { readonly service: string; readonly method: string; readonly request: object },
): Promise<object | undefined> {
  const { service, method, request } = what;
  try {
    return await callUnary({ proto: PROTO, service: `${PACKAGE}.${service}`, method }, request, {
      server: { host: '127.0.0.1', port: site.registryPort },
      credentials: registryCredentials(site, shown),
      tlsName: SERVER_NAME,
      timeoutMs: TIMEOUT_MS,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    return undefined;
  }
}

function registryCredentials({ own }: Site, shown: Shown) {
  return shown === undefined
    ? anonymousClientCredentials(own.root, [SERVER_NAME])
    : clientCredentials(
        { ca: Buffer.from(own.root), cert: Buffer.from(shown.cert), key: Buffer.from(shown.key) },
        SERVER_NAME,
      );
}

/** Whether a session is accepted for a node or machine of a name. */
function canSpeakFor(site: Site, shown: Shown, name: string): Promise<boolean> {
  const service = loadProtoFile(PROTO)[`${PACKAGE}.Registry`];
  const method = service === undefined || 'format' in service ? undefined : service.Session;
  if (method === undefined) throw new Error('registry.proto has no Session');
  const client = new Client(
    `ipv4:127.0.0.1:${site.registryPort}`,
    registryCredentials(site, shown),
    { 'grpc.ssl_target_name_override': SERVER_NAME, 'grpc.default_authority': SERVER_NAME },
  );
  return new Promise<boolean>((resolve) => {
    const stream = client.makeBidiStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
    );
    const end = (accepted: boolean): void => {
      stream.cancel();
      client.close();
      resolve(accepted);
    };
    stream.on('data', (answer: { accepted?: object }) => end(answer.accepted !== undefined));
    stream.on('error', () => end(false));
    stream.on('end', () => end(false));
    const instance = { instance_id: `instance of ${name}`, run_id: `run of ${name}` };
    stream.write({
      hello: {
        schema: 1,
        cluster_name: 'alpha',
        node_name: name,
        agent_version: 'test',
        ...instance,
      },
    });
  });
}

async function isDone(call: Promise<unknown>): Promise<boolean> {
  try {
    await call;
    return true;
  } catch (error) {
    if (typeof (error as Partial<ServiceError>).code === 'number') return false;
    throw error;
  }
}

/** Whether a prefix can be read through the gate. */
async function canRead(site: Site, shown: Shown, prefix: string): Promise<boolean> {
  using client = gateClient(site, shown);
  const end = `${prefix.slice(0, -1)}0`;
  return await isDone(
    client.call('KV', 'Range', { key: Buffer.from(prefix), range_end: Buffer.from(end) }),
  );
}

/** Whether anything at all can be changed in etcd. */
async function canWrite(site: Site, shown: Shown): Promise<boolean> {
  using client = gateClient(site, shown);
  const key = Buffer.from('cilium/state/ip/v1/default/10.9.9.9');
  const put = { request_put: { key, value: Buffer.from('{}') } };
  const done = await Promise.all([
    isDone(client.call('KV', 'Put', put.request_put)),
    isDone(client.call('KV', 'DeleteRange', { key })),
    isDone(client.call('KV', 'Txn', { success: [put] })),
    // Access rules of etcd itself have let this one through.
    isDone(client.call('KV', 'Txn', { success: [{ request_txn: { success: [put] } }] })),
    isDone(client.call('KV', 'Compact', { revision: '1' })),
    ...FORBIDDEN_METHODS.map(({ path }) => isDone(client.sendBytes(path, Buffer.alloc(0)))),
  ]);
  return done.includes(true);
}

function gateClient({ gatePort, own }: Site, shown: Shown) {
  return openRawClient(`https://127.0.0.1:${gatePort}`, {
    ca: own.root,
    cert: shown?.cert ?? '',
    key: shown?.key ?? '',
  });
}

/** Enrols a machine by the command line, without starting an agent; resolves to what it is given. */
async function enrolMachine(lab: Lab, name: string): Promise<Shown> {
  const machine = lab.machine(name);
  const { code, stderr } = await machine.tryJoin(await machine.createToken());
  if (code !== 0) throw new Error(`${name} could not join: ${stderr}`);
  const folder = join(machine.plan.stateDir, 'certs');
  return {
    cert: await readFile(join(folder, 'tls.crt'), 'utf8'),
    key: await readFile(join(folder, 'tls.key'), 'utf8'),
  };
}

/** Whether a certificate for a new key of a machine is given out. */
async function canRenew(site: Site, shown: Shown, machine: string): Promise<boolean> {
  const { publicKey, privateKey } = RENEWED;
  const input = renewProofInput({ commonName: `machine-${machine}`, publicKey });
  const request = { schema: 1, public_key: publicKey, proof: sign('sha256', input, privateKey) };
  const answer = (await canCall(site, shown, { service: 'Registry', method: 'Renew', request })) as
    | { certificate?: Buffer }
    | undefined;
  return (answer?.certificate?.length ?? 0) > 0;
}

/** The table of docs/security.md: rows by what is stolen, columns by what is tried, cells `yes` or `no`. */
async function readTable(): Promise<Map<string, Map<string, boolean>>> {
  const text = await readFile(projectPath('docs/security.md'), 'utf8');
  const lines = text.split('\n');
  const first = lines.findIndex((line) => line.startsWith('| who has |'));
  const cells = (line: string): string[] =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim().replaceAll('`', ''));
  const columns = cells(lines[first] ?? '').slice(1);
  const rows = new Map<string, Map<string, boolean>>();
  for (const line of lines.slice(first + 2)) {
    if (!line.startsWith('|')) break;
    const [who = '', ...verdicts] = cells(line);
    rows.set(who, new Map(columns.map((column, index) => [column, verdicts[index] === 'yes'])));
  }
  return rows;
}

test('who has which credential can do what docs/security.md says, and nothing else', {
  skip,
  timeout: 240_000,
}, async (t) => {
  await using lab = await openLab(TOPOLOGY);
  const site = await openSite(t, lab);
  const { own, beta, stranger, enrolling } = site;
  const [m1, , gone] = await Promise.all(
    ['m1', 'm2', 'gone'].map((name) => enrolMachine(lab, name)),
  );
  t.equal((await lab.administer('alpha', ['remove', 'gone'])).code, 0);

  const forged = (ca: CertificateAuthority, leaves: readonly LeafOptions[]): Shown[] =>
    leaves.map((leaf) => certificateOf(ca, leaf));
  const everybody = [
    nodeLeaf('n1'),
    nodeLeaf('n2'),
    machineLeaf('m1'),
    machineLeaf('m2'),
    adminLeaf('alpha'),
    localLeaf('alpha'),
    remoteLeaf('beta'),
    remoteLeaf('gamma'),
    remoteLeaf(),
    { commonName: 'root', usage: 'client' } as const,
  ];
  const hour = 3_600_000;
  const expired = { notBefore: Date.now() - 2 * hour, notAfter: Date.now() - hour };
  const early = { notBefore: Date.now() + hour, notAfter: Date.now() + 2 * hour };
  /** Several certificates: what any of them can do. */
  const holders: Readonly<Record<string, readonly Shown[]>> = {
    nothing: [undefined],
    'an authority that nobody trusts': forged(stranger, [adminLeaf('alpha'), nodeLeaf('n1')]),
    'a certificate that has expired': forged(own, [{ ...adminLeaf('alpha'), ...expired }]),
    'a certificate that is not valid yet': forged(own, [{ ...adminLeaf('alpha'), ...early }]),
    'a node, n1': forged(own, [nodeLeaf('n1')]),
    'a machine, m1': [m1],
    'a machine that was removed': [gone],
    'what a peer reads with': [
      ...forged(beta, [remoteLeaf('beta'), remoteLeaf()]),
      ...forged(own, [remoteLeaf('beta')]),
    ],
    "a peer's authority": forged(beta, everybody),
    'what reads the mirror': forged(own, [localLeaf('alpha')]),
    "the server's certificate": forged(own, [serverLeaf('alpha')]),
    'the administrator': forged(own, [adminLeaf('alpha')]),
    'the enrollment authority': forged(enrolling, everybody),
    "the cluster's authority": forged(own, everybody),
  };
  const attempts: Readonly<Record<string, (shown: Shown) => Promise<boolean>>> = {
    'read what peers read': (shown) => canRead(site, shown, 'cilium/state/'),
    'read the mirror': (shown) => canRead(site, shown, 'cilium/cache/'),
    'read what is for own agents': (shown) => canRead(site, shown, 'isthmus/local/services/'),
    'read tokens and machines': (shown) => canRead(site, shown, 'isthmus/registry/'),
    'write to etcd': (shown) => canWrite(site, shown),
    'speak for node n1': (shown) => canSpeakFor(site, shown, 'n1'),
    'for another node': (shown) => canSpeakFor(site, shown, 'n2'),
    'for machine m1': (shown) => canSpeakFor(site, shown, 'm1'),
    'for another machine': (shown) => canSpeakFor(site, shown, 'm2'),
    'renew m1': (shown) => canRenew(site, shown, 'm1'),
    'make tokens': async (shown) =>
      (await canCall(site, shown, {
        service: 'Admin',
        method: 'CreateToken',
        request: { names: 'any' },
      })) !== undefined,
  };

  const table = await readTable();
  for (const [who, as] of Object.entries(ENROLLING)) {
    t.same(table.get(who), table.get(as), `${who} is worth what it is given`);
    table.delete(who);
  }
  t.same([...table.keys()], Object.keys(holders), 'every credential has its row');
  for (const [who, shown] of Object.entries(holders)) {
    const able = new Set<string>();
    for (const one of shown) {
      await Promise.all(
        Object.entries(attempts).map(async ([what, attempt]) => {
          if (!able.has(what) && (await attempt(one))) able.add(what);
        }),
      );
    }
    const found = Object.fromEntries(
      Object.keys(attempts).map((what) => [what, able.has(what) ? 'yes' : 'no']),
    );
    const told = [...(table.get(who) ?? [])].map(([what, is]) => [what, is ? 'yes' : 'no']);
    t.same(found, Object.fromEntries(told), who);
  }
});

function newKey(): { readonly publicKey: Buffer; readonly privateKey: KeyObject } {
  const pair = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return {
    publicKey: pair.publicKey.export({ type: 'spki', format: 'der' }),
    privateKey: createPrivateKey(pair.privateKey.export({ type: 'pkcs8', format: 'pem' })),
  };
}
