/** Cilium's real kvstoremesh, of both versions at once, mirrors a cluster of ours through the gate. */
import { type Test, test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openFaultyProxy } from '../../mesh/testing/faulty-proxy.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { openWatchLog, type WatchLog } from '../../mesh/testing/watch-log.ts';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { writePeer } from '../../pki/layout.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { startCiliumKvstoremesh } from '../peers/cilium-kvstoremesh.ts';
import { readCluster } from '../peers/kvtool.ts';
import { differences, mirrorIn, mirrorOf } from '../peers/mirror-of.ts';
import { prepareOurApiserver } from '../peers/our-apiserver.ts';
import { needPeers, testedCiliums } from '../peers/peer-binary.ts';

const VERSIONS = testedCiliums(process.env);

const { skip, paths } = needPeers(
  VERSIONS.map((version) => `${version}/clustermesh-apiserver`),
  process.env,
);

const NODES = [1, 2, 3].map(
  (n) => `apiVersion: v1
kind: Node
metadata: {name: n${n}, labels: {kubernetes.io/os: linux}}
spec: {podCIDRs: [10.1.${n}.0/24, "fd00:10:1:${n}::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.${n}}]}
`,
);
const pod = (node: number, index: number, app = `app-${index % 7}`): string => `apiVersion: v1
kind: Pod
metadata: {name: pod-${node}-${index}, namespace: demo, labels: {app: ${app}}}
spec: {nodeName: n${node}, containers: [{ports: [{name: http, containerPort: 8080}]}]}
status:
  hostIP: 192.0.2.${node}
  podIP: 10.1.${node}.${index}
  podIPs: [{ip: 10.1.${node}.${index}}, {ip: "fd00:10:1:${node}::${index}"}]
`;
const service = (index: number): string => `apiVersion: v1
kind: Service
metadata: {name: app-${index}, namespace: demo, annotations: {service.cilium.io/global: "true"}}
spec: {clusterIP: 10.96.0.${index + 1}, selector: {app: app-${index}}, ports: [{name: http, port: 80, targetPort: http}]}
`;
const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from }, (_, index) => from + index);

/** A Cilium cluster's mirror: its etcd, what happens in it, and how it stands to the source. */
interface MirrorUnderTest {
  readonly version: string;
  readonly local: KvStore;
  readonly log: WatchLog;
  readonly lines: readonly string[];
}

async function readAll(store: KvStore): Promise<Map<string, string>> {
  const { pairs } = await store.list('cilium/');
  return new Map(pairs.map(({ key, value }) => [key, value.toString('latin1')]));
}

/** Waits until every mirror is what the source demands. */
async function untilMirrored(
  t: Test,
  what: string,
  source: KvStore,
  mirrors: readonly MirrorUnderTest[],
  holds: (published: ReadonlyMap<string, string>) => boolean = () => true,
): Promise<ReadonlyMap<string, string>> {
  const published = await waitFor(`our etcd after ${what}`, async () => {
    const all = await readAll(source);
    return all.has('cilium/synced/alpha/cilium/state/services/v1') && holds(all) && all;
  });
  for (const { version, local, lines } of mirrors) {
    const expected = mirrorOf(published, 'alpha', {
      serviceExports: version >= 'cilium-1.17',
      endpointSlices: version >= 'cilium-1.20',
    });
    let wrong: string[] = ['nothing read yet'];
    try {
      await waitFor(
        `the mirror of ${version} after ${what}`,
        async () => {
          wrong = differences(expected, mirrorIn(await readAll(local), 'alpha'));
          return wrong.length === 0;
        },
        // While it is refused, its gRPC waits longer and longer between two tries.
        { timeoutMs: 60_000, intervalMs: 50 },
      );
      t.pass(`${version} holds all ${expected.size} keys after ${what}`);
    } catch (cause) {
      const said = lines.slice(-30).join('\n');
      throw new Error(`${version} after ${what}: ${wrong.join('; ')}; it said: ${said}`, { cause });
    }
  }
  return published;
}

test("Cilium's kvstoremesh mirrors us through restarts, re-listing and a wipe (promises 2, 3)", {
  skip,
  timeout: 240_000,
}, async (t) => {
  const ending = new AbortController();
  t.teardown(() => ending.abort());
  await using dir = await openTempDir('cilium-mirrors');
  await using etcd = await openEtcdServer();
  await using source = await openEtcd({ endpoints: [etcd.endpoint] });
  await using alpha = await prepareOurApiserver({
    cluster: { name: 'alpha', id: 1 },
    etcdEndpoint: etcd.endpoint,
    dir,
    signal: ending.signal,
  });
  await using proxy = await openFaultyProxy({ targetPort: alpha.gatePort });
  await alpha.manifest('nodes.yaml', NODES.join('---\n'));
  for (const node of [1, 2, 3]) {
    await alpha.manifest(
      `pods-${node}.yaml`,
      range(1, 21)
        .map((i) => pod(node, i))
        .join('---\n'),
    );
  }
  await alpha.manifest('services.yaml', range(0, 7).map(service).join('---\n'));
  // One comes as Cilium's charts issue it, `remote` of its own CA; the next with our certificate for it; and so on.
  const beta = await createCa({ commonName: 'CA of beta' });
  await alpha.trust('beta', beta);
  await alpha.start();
  const callers = VERSIONS.map((_, index) =>
    index === 0
      ? { name: 'beta', id: 2, ca: beta, cn: undefined }
      : { name: `peer-${index}`, id: 2 + index, ca: alpha.ca, cn: `peer-${index}` },
  );
  const mirrors: MirrorUnderTest[] = [];
  const closing: AsyncDisposable[] = [];
  t.teardown(async () => {
    for (const one of closing.reverse()) await one[Symbol.asyncDispose]();
  });
  for (const [index, version] of VERSIONS.entries()) {
    const caller = callers[index]!;
    const server = await openEtcdServer();
    closing.push(server);
    const local = await openEtcd({ endpoints: [server.endpoint] });
    closing.push(local);
    const peersDir = dir.file(`${caller.name}-peers`);
    await writePeer(peersDir, 'alpha', {
      endpoints: [`https://127.0.0.1:${proxy.port}`],
      ca: alpha.ca.root,
      client: await issueCertificate(caller.ca, remoteLeaf(caller.cn)),
    });
    const log = openWatchLog(local, { prefix: 'cilium/' });
    closing.push(log);
    const mirror = await startCiliumKvstoremesh(paths[index]!, {
      cluster: caller,
      peersDir,
      localEndpoint: server.endpoint,
      dir,
      signal: ending.signal,
    });
    closing.push(mirror);
    mirrors.push({ version, local, log, lines: mirror.lines });
  }
  const steps = async (what: string, holds?: (all: ReadonlyMap<string, string>) => boolean) =>
    untilMirrored(t, what, source, mirrors, holds);
  /** Keys that a mirror deleted since `from` though they are there now: an interval of absence. */
  const flaps = (from: readonly number[]): string[] =>
    mirrors.flatMap(({ version, log }, index) =>
      log
        .of('delete')
        .slice(from[index])
        .filter(({ key }) => log.held.has(key))
        .map(({ key }) => `${version} ${key}`),
    );
  const saw = (text: string, since = ''): boolean =>
    mirrors.every(
      ({ version, lines }) => version < since || lines.some((line) => line.includes(text)),
    );
  const marks = (): number[] => mirrors.map(({ log }) => log.of('delete').length);

  await steps('the first synchronisation', (all) =>
    all.has('cilium/state/ip/v1/default/10.1.3.20'),
  );

  await alpha.manifest(
    'pods-1.yaml',
    range(5, 26)
      .map((i) => pod(1, i, 'app-0'))
      .join('---\n'),
  );
  await steps(
    'pods came, changed and went',
    (all) =>
      all.has('cilium/state/ip/v1/default/10.1.1.25') &&
      // Withdrawn in more than one transaction.
      range(1, 5).every(
        (i) =>
          !all.has(`cilium/state/ip/v1/default/10.1.1.${i}`) &&
          !all.has(`cilium/state/ip/v1/default/fd00:10:1:1::${i}`),
      ),
  );

  let before = marks();
  await alpha.stop();
  await alpha.manifest(
    'pods-2.yaml',
    range(1, 31)
      .map((i) => pod(2, i))
      .join('---\n'),
  );
  await alpha.manifest(
    'pods-3.yaml',
    range(11, 21)
      .map((i) => pod(3, i))
      .join('---\n'),
  );
  await alpha.start();
  await steps(
    'a restart of the apiserver',
    (all) =>
      all.has('cilium/state/ip/v1/default/10.1.2.30') &&
      !all.has('cilium/state/ip/v1/default/10.1.3.5'),
  );
  t.same(flaps(before), [], 'nothing that stayed was away meanwhile');

  before = marks();
  proxy.setFaults({ refuse: true });
  proxy.cut();
  await alpha.manifest('pods-3.yaml', undefined);
  await alpha.manifest(
    'pods-2.yaml',
    range(1, 41)
      .map((i) => pod(2, i))
      .join('---\n'),
  );
  await waitFor('our etcd to change', async () => {
    const all = await readAll(source);
    return (
      all.has('cilium/state/ip/v1/default/10.1.2.40') &&
      !all.has('cilium/state/ip/v1/default/10.1.3.12')
    );
  });
  await etcd.compact();
  // A gate that has just started remembers no more than etcd does.
  await alpha.stop();
  await alpha.start();
  proxy.setFaults({});
  await steps('a cut stream and a compaction');
  // Older ones do the same without a word.
  const told = saw('Tried watching on compacted revision', 'cilium-1.17');
  t.ok(told, 'both were told, and listed again');
  t.same(flaps(before), [], 'nothing that stayed was away meanwhile');

  before = marks();
  await etcd.wipe();
  await steps('a wipe of our etcd', (all) => all.has('cilium/state/ip/v1/default/10.1.2.40'));
  t.ok(saw('etcd cluster ID has changed'), 'both saw that it is another etcd');
  t.same(flaps(before), [], 'nothing that stayed was away meanwhile');
  await alpha.manifest('pods-2.yaml', undefined);
  await steps('deletes after the wipe', (all) => !all.has('cilium/state/ip/v1/default/10.1.2.40'));

  for (const [index, version] of VERSIONS.entries()) {
    const { skip: missing, paths: tools } = needPeers([`${version}/kvtool`], process.env);
    await t.test(`${version} reads us as its agents do`, { skip: missing }, async (st) => {
      const configFile = dir.file(`${callers[index]!.name}-peers`, 'alpha');
      const events = await readCluster(tools[0]!, { name: 'alpha', id: 1 }, { configFile });
      const of = (what: string) => events.filter(({ event }) => event === what);
      st.same(of('refused'), [], 'it refuses nothing');
      const published = [...(await readAll(source)).keys()].filter((key) =>
        /^cilium\/state\/(?!identities\/v1\/value)/.test(key),
      );
      st.equal(
        of('accepted').length,
        published.length,
        `it accepts all ${published.length} values`,
      );
    });
  }
});
