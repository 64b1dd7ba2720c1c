/** Our reader and our kvstoremesh follow a cluster of Cilium's: its etcdinit, its roles, its writing code. */
import { type Test, test } from 'tap';
import { readEtcdClientConfig } from '../../mesh/kvstore/client-config.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { changeName, nameOfKey } from '../../mesh/remote/accept.ts';
import type { ClusterSink } from '../../mesh/remote/cluster-sink.ts';
import { connectionReader } from '../../mesh/remote/connection.ts';
import { openKnownPeers } from '../../mesh/remote/known-peers.ts';
import { createMesh, type Mesh } from '../../mesh/remote/mesh.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { decodeClusterService, encodeClusterService } from '../../mesh/wire/service.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { writePeer } from '../../pki/layout.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { openCiliumEtcd } from '../peers/cilium-etcd.ts';
import { openPeerPublisher } from '../peers/kvtool.ts';
import { differences, mirrorIn, mirrorOf } from '../peers/mirror-of.ts';
import { startOurKvstoremesh } from '../peers/our-apiserver.ts';
import { needPeers, testedCiliums } from '../peers/peer-binary.ts';

const VERSIONS = testedCiliums(process.env);

const SIZES = { node: 5, identity: 40, ip: 400, service: 20, 'service-export': 5 };
const READ = ['nodes', 'identities', 'ip', 'services'];

/** Where a reader keeps what it was told: raw values by kind and name. */
interface Held {
  readonly sink: ClusterSink;
  readonly values: ReadonlyMap<string, string>;
  /** Names that were taken back. */
  readonly removals: string[];
}

function createHeld(): Held {
  const values = new Map<string, string>();
  const removals: string[] = [];
  return {
    values,
    removals,
    sink: {
      apply(_cluster, change, pair) {
        const name = changeName(change);
        if (change.value === undefined) {
          values.delete(name);
          removals.push(name);
        } else if (change.kind === 'service') {
          // Told again, without its source, whenever another of its backends is known.
          values.set(name, Buffer.from(encodeClusterService(change.value)).toString('latin1'));
        } else if (pair !== undefined) values.set(name, pair.value.toString('latin1'));
      },
      synced: () => undefined,
      removed: () => undefined,
    },
  };
}

function startReader(t: Test, dir: TempDir, sink: ClusterSink): Mesh {
  const logger = createLogger('test', { level: 'silent' });
  const stopping = new AbortController();
  const mesh = createMesh({
    context: {
      own: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
      nodeIps: [],
      sink,
      clock: systemClock,
      logger,
    },
    ownFile: undefined,
    directory: dir.file('peers'),
    readConnection: connectionReader({ clock: systemClock }),
    knownPeers: openKnownPeers(dir.path, logger),
    setPeers: () => undefined,
  });
  const running = mesh.run(stopping.signal);
  t.teardown(async () => {
    stopping.abort();
    await running;
  });
  return mesh;
}

/** What the cluster's etcd holds, as its administrator sees it. */
async function readAll(store: KvStore): Promise<Map<string, string>> {
  const { pairs } = await store.list('cilium/');
  return new Map(pairs.map(({ key, value }) => [key, value.toString('latin1')]));
}

/** What a reader must hold then: names and values of the kinds that agents read. */
function expectedOf(published: ReadonlyMap<string, string>): Map<string, string> {
  const expected = new Map<string, string>();
  for (const [key, value] of published) {
    const kind = /^cilium\/state\/([a-z]+)\/v1\//.exec(key)?.[1] ?? '';
    if (!READ.includes(kind)) continue;
    // 1.18 also writes what is empty.
    const text =
      kind === 'services'
        ? Buffer.from(
            encodeClusterService(decodeClusterService(Buffer.from(value, 'latin1'), key)),
          ).toString('latin1')
        : value;
    expected.set(nameOfKey(key) ?? key, text);
  }
  return expected;
}

for (const [index, version] of VERSIONS.entries()) {
  const { skip, paths } = needPeers(
    [`${version}/clustermesh-apiserver`, `${version}/kvtool`],
    process.env,
  );
  const [apiserver = '', kvtool = ''] = paths;
  // One comes with the certificate that all peers share, the other with its own, as in Cilium's two modes.
  const user = index === 0 ? undefined : 'alpha';

  test(`we follow a cluster of ${version} as ${user === undefined ? 'remote' : 'remote-alpha'} (promise 2)`, {
    skip,
    timeout: 240_000,
  }, async (t) => {
    const ending = new AbortController();
    t.teardown(() => ending.abort());
    const { signal } = ending;
    await using dir = await openTempDir('cilium-cluster');
    await using etcd = await openCiliumEtcd(apiserver, { cluster: 'beta', dir, signal });
    if (user !== undefined) await etcd.addPeerUser(user);
    const peersDir = dir.file('peers');
    await writePeer(peersDir, 'beta', {
      endpoints: [etcd.endpoint],
      ca: etcd.ca.root,
      client: await issueCertificate(etcd.ca, remoteLeaf(user)),
    });
    await using local = await openEtcdServer();
    await using mirror = await openEtcd({ endpoints: [local.endpoint] });
    const admin = await readEtcdClientConfig(etcd.adminFile);
    await using source = await openEtcd({
      endpoints: [...admin.endpoints],
      ...(admin.tls === undefined ? {} : { tls: admin.tls }),
    });
    const held = createHeld();
    // The readers are there before the cluster is: its configuration comes late.
    const mesh = startReader(t, dir, held.sink);
    const publish = (seed: number, sizes: Readonly<Record<string, number>>) =>
      openPeerPublisher(
        kvtool,
        { name: 'beta', id: 2 },
        { etcd: { configFile: etcd.adminFile }, seed, sizes },
      );
    const sizes = { ...SIZES, ...(version < 'cilium-1.20' ? {} : { 'endpoint-slice': 5 }) };
    let publisher = await publish(1, sizes);
    t.teardown(() => publisher[Symbol.asyncDispose]());
    await using _ours = await startOurKvstoremesh({
      cluster: { name: 'alpha', id: 1 },
      peersDir,
      localEndpoint: local.endpoint,
      signal,
    });

    const follow = async (
      what: string,
      holds: (all: ReadonlyMap<string, string>) => boolean,
    ): Promise<void> => {
      let wrong: string[] = ['nothing read yet'];
      try {
        await waitFor(
          what,
          async () => {
            const all = await readAll(source);
            if (!holds(all)) return false;
            wrong = [
              ...differences(expectedOf(all), held.values).map((line) => `reader: ${line}`),
              ...differences(
                mirrorOf(all, 'beta', { serviceExports: true, endpointSlices: true }),
                mirrorIn(await readAll(mirror), 'beta'),
              ).map((line) => `mirror: ${line}`),
            ];
            return wrong.length === 0;
          },
          { timeoutMs: 40_000, intervalMs: 50 },
        );
        t.pass(`reader and mirror hold everything after ${what}`);
      } catch (cause) {
        const states = mesh.status().clusters.map(({ state }) => state);
        const message = `${what}: ${wrong.join('; ')}; reader: ${JSON.stringify(states)}`;
        throw new Error(message, { cause });
      }
    };

    await follow('the first synchronisation', (all) => all.size > 470);
    t.ok(held.values.size >= 460, `the reader holds ${held.values.size} values`);

    const all = await readAll(source);
    const service = 'cilium/state/services/v1/beta/demo/service-1';
    const changed = (all.get(service) ?? '').replace(
      /"labels":\{[^}]*\}/,
      '"labels":{"new":"yes"}',
    );
    publisher.put(service, changed);
    publisher.put(
      'cilium/state/ip/v1/default/10.3.200.7',
      '{"IP":"10.3.200.7","Mask":null,"HostIP":"192.168.0.3","ID":131400,"Key":0,"Metadata":""}',
    );
    publisher.delete('cilium/state/ip/v1/default/10.1.0.2');
    publisher.delete('cilium/state/services/v1/beta/demo/service-3');
    await follow(
      'a put, a change and two deletes',
      (now) =>
        now.get(service) === changed &&
        now.has('cilium/state/ip/v1/default/10.3.200.7') &&
        !now.has('cilium/state/ip/v1/default/10.1.0.2') &&
        !now.has('cilium/state/services/v1/beta/demo/service-3'),
    );
    t.same(held.removals.sort(), ['10.1.0.2/32', 'demo/service-3'], 'nothing else was taken back');

    const before = held.removals.length;
    await etcd.kill();
    await etcd.start();
    publisher.delete('cilium/state/ip/v1/default/10.2.0.2');
    await follow(
      "a restart of Cilium's etcd",
      (now) => !now.has('cilium/state/ip/v1/default/10.2.0.2'),
    );
    t.same(held.removals.slice(before), ['10.2.0.2/32'], 'and only what was deleted went');

    await publisher[Symbol.asyncDispose]();
    publisher = await publish(1, { ...sizes, ip: 500 });
    await follow(
      'another publisher took over',
      (now) => now.has('cilium/state/ip/v1/default/10.14.0.100') || now.size > 560,
    );
    const refused = mesh.status().clusters.map((peer) => peer.refused.byReason);
    t.same(refused, [{}], 'no value was refused');
  });
}
