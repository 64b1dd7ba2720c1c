/** Machines as objects of a real API server: what they show, what people do by them, and what they never do. */
import { generateKeyPairSync } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import {
  decodeMachineRecord,
  encodeMachineRecord,
  MACHINES_PREFIX,
  type MachineRecord,
} from '../../clustermesh-apiserver/registry/machine-record.ts';
import {
  dialMachineStream,
  type MachineStream,
  machineHello,
} from '../../clustermesh-apiserver/registry/testing/machine-registry.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { issueCertificate, issueForKey } from '../../pki/ca.ts';
import { writeSecret } from '../../pki/layout.ts';
import { adminLeaf, machineLeaf } from '../../pki/names.ts';
import { type CommandResult, execute } from '../lab/command.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { needKube } from '../peers/kube-programs.ts';
import { type OurApiserver, prepareOurApiserver } from '../peers/our-apiserver.ts';

const kube = needKube(process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';
const CLI = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
const WAIT = { intervalMs: 100, timeoutMs: 60_000 };
const HOUR_MS = 3_600_000;

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}
interface Shown {
  readonly metadata: { readonly finalizers?: readonly string[] };
  readonly spec?: { readonly labels?: Readonly<Record<string, string>> };
  readonly status?: Readonly<Record<string, unknown>> & {
    readonly conditions: readonly Condition[];
  };
}

/** What the cases share: each has machines of its own. */
interface Rig {
  readonly cluster: KubeCluster;
  readonly store: KvStore;
  readonly ours: OurApiserver;
  /** Writes a machine down as if a token had let it in. */
  enrol(name: string, more?: Partial<MachineRecord>): Promise<void>;
  recordOf(name: string): Promise<MachineRecord>;
  /** Its agent comes, with an address. */
  connect(t: Test, name: string, address: string): MachineStream;
  /** The object; undefined: there is none. */
  show(name: string, namespace?: string): Promise<Shown | undefined>;
  /** Waits until a condition of it has a reason. */
  until(name: string, wanted: string, namespace?: string): Promise<Shown>;
  apply(object: object): Promise<string>;
  /** `clustermesh vm …` as the administrator. */
  vm(args: readonly string[]): Promise<CommandResult>;
}

function meshMachine(name: string, spec: object = {}, namespace = 'shop'): object {
  return {
    apiVersion: 'isthmus.io/v1alpha1',
    kind: 'MeshMachine',
    metadata: { name, namespace },
    spec,
  };
}

test('machines as objects of Kubernetes', { skip: kube.skip, timeout: 240_000 }, async (t) => {
  const cluster = await openKubeCluster({ name: 'machines', programs: kube.programs });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const etcd = await openEtcdServer();
  t.teardown(() => etcd[Symbol.asyncDispose]());
  const store = await openEtcd({ endpoints: [etcd.endpoint] });
  t.teardown(() => store[Symbol.asyncDispose]());
  const dir = await openTempDir('kubernetes-machines');
  t.teardown(() => dir[Symbol.asyncDispose]());
  for (const file of ['rbac-any-cni.yaml', 'rbac-controllers.yaml', 'rbac-machines.yaml']) {
    await cluster.kubectl(['apply', '-f', projectPath(`${MANIFESTS}/${file}`)]);
  }
  const user = await cluster.addUser('clustermesh-apiserver', { namespace: 'isthmus-system' });
  for (const name of ['shop', 'other']) {
    await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name } } });
  }
  await cluster.ask('POST', '/api/v1/namespaces/shop/services', {
    body: { metadata: { name: 'db' }, spec: { selector: { app: 'db' }, ports: [{ port: 5432 }] } },
  });
  const ending = new AbortController();
  const ours = await prepareOurApiserver({
    cluster: { name: 'alpha', id: 1 },
    etcdEndpoint: etcd.endpoint,
    source: [
      '--mode=any-cni',
      `--kubeconfig=${user.kubeconfig}`,
      '--enable-mesh-machines',
      '--lease-namespace=isthmus-system',
      '--vm-session-grace=1s',
    ],
    dir,
    signal: ending.signal,
  });
  t.teardown(async () => {
    await ours[Symbol.asyncDispose]();
    ending.abort();
  });
  const admin = await issueCertificate(ours.ca, adminLeaf('alpha'));
  await writeSecret(dir.path, 'admin', { ca: ours.ca.root, pair: admin });
  const rig = makeRig({ cluster, store, ours, adminFolder: dir.file('admin') });
  await rig.enrol('db');
  await ours.start();

  await t.test('each machine is shown, as it stands', (child) => shows(rig, child));
  await t.test('labels of spec are given to the machine', (child) => labels(rig, child));
  await t.test('an object lets nobody in, and waits for its machine', (child) => waits(rig, child));
  await t.test('what cannot be is refused by the API server', (child) => refuses(rig, child));
  await t.test('who deletes the object removes the machine', (child) => removes(rig, child));
  await t.test('who removes the machine takes its object away', (child) => goes(rig, child));
  await t.test('it is deleted while nobody looks', (child) => removesLater(rig, child));
  await t.test('nothing was refused', async (child) => {
    const metrics = await cluster.kubectl(['get', '--raw', '/metrics']);
    const refused = metrics
      .split('\n')
      .filter((line) => /^apiserver_request_total\{.*code="403"/.test(line));
    child.same(refused, [], 'the manifests allow what is needed');
  });
  await t.test('who deletes the definition removes no machine', (child) => outlives(rig, child));
});

async function shows(rig: Rig, t: Test): Promise<void> {
  const first = await rig.until('db', 'NoSession');
  t.match(first.status, { state: 'Enrolled', tokenId: 'token-1' });
  const stream = rig.connect(t, 'db', '192.0.2.10');
  const connected = await rig.until('db', 'Connected');
  t.match(connected.status, {
    state: 'Connected',
    addresses: ['192.0.2.10'],
    addressRanges: ['192.0.2.0/24'],
    labels: { app: 'db' },
    agentVersion: 'test',
    certificateExpiresAt: /^\d{4}-\d\d-\d\dT/,
    enrolledAt: '2026-01-01T00:00:00Z',
  });
  stream.send({ health: { results: [{ check: 'tcp:5432', healthy: false, reason: 'refused' }] } });
  t.match((await rig.until('db', 'Failing')).status?.checks, [
    { check: 'tcp:5432', healthy: false, reason: 'refused' },
  ]);
  stream.send({ health: { results: [{ check: 'tcp:5432', healthy: true }] } });
  await rig.until('db', 'Passed');
  const table = await rig.cluster.kubectl(['get', 'meshmachines', '-n', 'shop']);
  t.match(table, /NAME +STATE +READY +ADDRESSES +VERSION +CERTIFICATE UNTIL +AGE/);
  t.match(table, /db +Connected +True +\["192\.0\.2\.10"\] +test +\d{4}-/);
  stream.close();
  const away = await rig.until('db', 'Away');
  t.equal(away.status?.state, 'Away');
  await waitFor(
    'its addresses to be withdrawn after the grace time',
    async () => String((await rig.show('db'))?.status?.addresses) === '',
    WAIT,
  );
}

async function labels(rig: Rig, t: Test): Promise<void> {
  const patch = (spec: object) =>
    rig.cluster.kubectl([
      ...['patch', 'meshmachine', 'db', '-n', 'shop', '--type=merge'],
      `--patch=${JSON.stringify({ spec })}`,
    ]);
  t.match(await rig.vm(['label', 'db', 'tier=gold']), { code: 0 });
  await waitFor(
    'what the command line gave',
    async () => {
      const { status } = (await rig.show('db')) ?? {};
      return (status?.labels as Record<string, string> | undefined)?.tier === 'gold';
    },
    WAIT,
  );
  await patch({ labels: { app: 'db', zone: 'a' } });
  const applied = await rig.until('db', 'AsSpecified');
  t.strictSame(applied.status?.labels, { app: 'db', zone: 'a' });
  t.strictSame((await rig.recordOf('db')).labels, { app: 'db', zone: 'a' }, 'in the registry');
  const refused = await rig.vm(['label', 'db', 'tier=silver']);
  t.match(refused, { code: 1, stderr: /decided by its MeshMachine: change spec\.labels there/ });

  await patch({ labels: { app: 'db', 'not a key': 'x' } });
  const bad = await rig.until('db', 'Refused');
  t.match(conditionOf(bad, 'LabelsApplied').message, /"not a key" is no key of a label/);
  t.strictSame((await rig.recordOf('db')).labels, { app: 'db', zone: 'a' }, 'they stay');
  await patch({ labels: null });
  await rig.until('db', 'NotSpecified');
  t.match(await rig.vm(['label', 'db', 'zone-']), { code: 0 });
  t.strictSame((await rig.recordOf('db')).labels, { app: 'db' });
}

async function waits(rig: Rig, t: Test): Promise<void> {
  await rig.apply(meshMachine('late', { labels: { app: 'cache' } }));
  const before = await rig.until('late', 'NotEnrolled');
  t.match(conditionOf(before, 'Ready').message, /vm token create --name late --namespace shop/);
  t.equal(before.metadata.finalizers, undefined, 'it can be deleted as anything');
  const stranger = rig.connect(t, 'late', '192.0.2.20');
  await waitFor('its session to be refused', () => stranger.ended !== undefined, WAIT);
  t.match(stranger.ended, /machine late is not known/);

  await rig.enrol('late', { labels: { app: 'db', from: 'token' } });
  await rig.until('late', 'AsSpecified');
  t.strictSame((await rig.recordOf('late')).labels, { app: 'cache' });
  await rig.apply(meshMachine('late', { labels: { app: 'admin' } }, 'other'));
  await rig.until('late', 'NameTaken', 'other');
  await rig.cluster.kubectl(['delete', 'meshmachine', 'late', '-n', 'other', '--timeout=60s']);
  const { labels: kept, removedAt } = await rig.recordOf('late');
  t.strictSame([kept, removedAt], [{ app: 'cache' }, undefined], 'another namespace has no say');
}

async function refuses(rig: Rig, t: Test): Promise<void> {
  await t.rejects(rig.apply(meshMachine('a.b')), { message: /has 1 to 63 of a-z, 0-9 and "-"/ });
  for (const label of ['io.kubernetes.pod.namespace', 'io.cilium.k8s.policy.cluster']) {
    const object = meshMachine('forged', { labels: { [label]: 'x' } });
    await t.rejects(rig.apply(object), { message: /are for the cluster to say/ }, label);
  }
  const object = meshMachine('forged', { labels: { app: 'a b' } });
  await t.rejects(rig.apply(object), { message: /should match/ });
  t.equal(await rig.show('forged'), undefined);
}

async function removes(rig: Rig, t: Test): Promise<void> {
  await rig.enrol('gone');
  await rig.until('gone', 'NoSession');
  const stream = rig.connect(t, 'gone', '192.0.2.30');
  await rig.until('gone', 'Connected');
  await rig.cluster.kubectl(['delete', 'meshmachine', 'gone', '-n', 'shop', '--timeout=60s']);
  t.type((await rig.recordOf('gone')).removedAt, 'number', 'before the object goes');
  await waitFor('its session to be cut', () => stream.ended !== undefined, WAIT);
  t.equal(await rig.show('gone'), undefined, 'and it stays away');
  const again = rig.connect(t, 'gone', '192.0.2.30');
  await waitFor('it to be refused', () => again.ended !== undefined, WAIT);
}

async function goes(rig: Rig, t: Test): Promise<void> {
  t.match(await rig.vm(['remove', 'late']), { code: 0 });
  const late = await rig.until('late', 'Removed');
  t.equal(late.metadata.finalizers, undefined, 'what a person made stays, and may be deleted');
  t.match(await rig.vm(['remove', 'db']), { code: 0 });
  await waitFor('its object to go', async () => (await rig.show('db')) === undefined, WAIT);
}

async function removesLater(rig: Rig, t: Test): Promise<void> {
  await rig.enrol('quiet');
  await rig.until('quiet', 'NoSession');
  await rig.ours.stop();
  await rig.cluster.kubectl(['delete', 'meshmachine', 'quiet', '-n', 'shop', '--wait=false']);
  t.ok(await rig.show('quiet'), 'it waits for its finalizer');
  await rig.ours.start();
  await waitFor('the object to go', async () => (await rig.show('quiet')) === undefined, WAIT);
  t.type((await rig.recordOf('quiet')).removedAt, 'number');
}

async function outlives(rig: Rig, t: Test): Promise<void> {
  await rig.enrol('stays');
  await rig.until('stays', 'NoSession');
  const definition = 'meshmachines.isthmus.io';
  await rig.cluster.kubectl(['delete', 'customresourcedefinition', definition, '--timeout=60s']);
  t.equal((await rig.recordOf('stays')).removedAt, undefined, 'the machine is a member as before');
  await rig.apply(await definitionOf());
  await rig.until('stays', 'NoSession');
}

async function definitionOf(): Promise<object> {
  const { readDefinitions } = await import(
    '../../clustermesh-apiserver/controllers/definitions.ts'
  );
  const [definition] = await readDefinitions(`${MANIFESTS}/meshmachine-crd.yaml`);
  return { ...definition };
}

function conditionOf(shown: Shown, type: string): Condition {
  const found = shown.status?.conditions.find((condition) => condition.type === type);
  if (found === undefined) throw new Error(`no condition ${type}: ${JSON.stringify(shown.status)}`);
  return found;
}

function makeRig(options: {
  readonly cluster: KubeCluster;
  readonly store: KvStore;
  readonly ours: OurApiserver;
  readonly adminFolder: string;
}): Rig {
  const { cluster, store, ours, adminFolder } = options;
  const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const key = Buffer.from(privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const ca = Buffer.from(ours.ca.root);
  const show: Rig['show'] = async (name, namespace = 'shop') => {
    const path = `/apis/isthmus.io/v1alpha1/namespaces/${namespace}/meshmachines/${name}`;
    try {
      return (await cluster.ask('GET', path)) as Shown;
    } catch (error) {
      if (/not found|could not find/.test(String(error))) return undefined;
      throw error;
    }
  };
  return {
    cluster,
    store,
    ours,
    show,
    async enrol(name, more = {}) {
      const record: MachineRecord = {
        name,
        namespace: 'shop',
        labels: { app: 'db' },
        addressRanges: ['192.0.2.0/24' as never],
        publicKeyHash: 'shared',
        keys: [{ hash: 'shared', expiresAt: Date.now() + HOUR_MS }],
        revokedKeys: [],
        tokenId: 'token-1',
        enrolledAt: Date.UTC(2026, 0, 1),
        addresses: [],
        bootId: '',
        agentVersion: '',
        checks: new Map(),
        removedAt: undefined,
        ...more,
      };
      await store.put(MACHINES_PREFIX + name, encodeMachineRecord(record));
    },
    async recordOf(name) {
      const pair = await store.get(MACHINES_PREFIX + name);
      return decodeMachineRecord(pair?.value.toString('utf8') ?? '');
    },
    connect(t, name, address) {
      const cert = Buffer.from(issueForKey(ours.ca, { ...machineLeaf(name), publicKey }));
      const stream = dialMachineStream(
        { host: '127.0.0.1', port: ours.registryPort },
        { ca, cert, key },
      );
      t.teardown(() => stream.close());
      stream.send(machineHello(name, `boot-${name}`));
      stream.send({ machine: { sequence: 1, addresses: [address], boot_id: 'boot' } });
      return stream;
    },
    async until(name, wanted, namespace) {
      let last: Shown | undefined;
      const look = async (): Promise<Shown | undefined> => {
        last = await show(name, namespace);
        const reasons = last?.status?.conditions.map(({ reason }) => reason);
        return reasons?.includes(wanted) ? last : undefined;
      };
      try {
        return await waitFor(`${name} to be ${wanted}`, look, WAIT);
      } catch (cause) {
        throw new Error(`${name} is not ${wanted}: ${JSON.stringify(last)}`, { cause });
      }
    },
    apply: (object) => cluster.kubectl(['apply', '-f', '-'], { input: JSON.stringify(object) }),
    vm: (args) => {
      const registry = `127.0.0.1:${ours.registryPort}`;
      const who = ['--registry', registry, '--certificates', adminFolder];
      return execute([process.execPath, CLI, 'vm', ...args, ...who], { timeoutMs: 60_000 });
    },
  };
}
