/**
 * Our apiserver in mode `cilium` and Cilium's own clustermesh-apiserver publish the same API server's objects, each into an
 * etcd of its own: after every quiet point keys and values are equal, but for what is listed here with its reason.
 */
import { setMaxListeners } from 'node:events';
import { type Test, test } from 'tap';
import { openKubernetes } from '../../clustermesh-apiserver/kubernetes/api.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type CiliumApiserver, startCiliumApiserver } from '../peers/cilium-apiserver.ts';
import { type Comparison, compareEtcds, type KnownDifference } from '../peers/compare-etcds.ts';
import { type GeneratedCluster, generateCluster } from '../peers/generated-cluster.ts';
import type { EndpointStyle } from '../peers/generated-objects.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { crdPeers } from '../peers/kube-crds.ts';
import { needKube } from '../peers/kube-programs.ts';
import { createKubeWriter, type KubeWriter } from '../peers/kube-writer.ts';
import { type OurApiserver, prepareOurApiserver } from '../peers/our-apiserver.ts';
import { needPeers, testedCiliums } from '../peers/peer-binary.ts';

const VERSIONS = testedCiliums(process.env);
const SEED = Number(process.env.ISTHMUS_SEED ?? 20_261_121);
const PLACE = { cluster: 'alpha', clusterId: 3 };
const kube = needKube(process.env);
const { skip, paths } = needPeers(
  [...VERSIONS.map((version) => `${version}/clustermesh-apiserver`), ...crdPeers],
  process.env,
);
const CRDS = [
  'ciliumnodes',
  'ciliumidentities',
  'ciliumendpoints',
  'ciliumendpointslices',
  'mcs-api',
];

/** What both may differ in, whatever the version of Cilium. */
const KNOWN: readonly KnownDifference[] = [
  {
    reason: 'times: when a marker was written',
    keys: /^cilium\/synced\//,
    rest: () => 'a time',
  },
  {
    reason: 'the heartbeat: Cilium writes its first one a minute after its start, Isthmus at once',
    keys: /^cilium\/\.heartbeat$/,
    rest: undefined,
  },
  {
    reason:
      'endpointslices/v1 (1.20): Isthmus publishes services/v1, which every version reads, and does not claim slices',
    keys: /^cilium\/(state|synced\/alpha\/cilium\/state)\/endpointslices\//,
    rest: undefined,
  },
  {
    reason: 'the claim to publish endpointslices/v1 (1.20), see above',
    keys: /^cilium\/cluster-config\//,
    rest: (value) => value.replace(/,"endpointSlicesExportMode":"[^"]*"/, ''),
  },
  {
    reason:
      'Services of type ExternalName: Cilium publishes them with an empty address as frontend, which its own readers refuse',
    keys: /^cilium\/state\/services\/v1\/alpha\/[^/]+\/svc-external-name-/,
    rest: undefined,
  },
];
/** What only the versions before 1.20 do otherwise. */
const KNOWN_BEFORE_1_20: readonly KnownDifference[] = [
  {
    reason: 'NamedPorts: Cilium before 1.20 leaves them out; readers of every version take them',
    keys: /^cilium\/state\/ip\//,
    rest: (value) => value.replace(/,"NamedPorts":\[[^\]]*\]/, ''),
  },
  {
    reason: 'NodeIdentity: Cilium before 1.20 has the field, always 0, which nobody reads any more',
    keys: /^cilium\/state\/nodes\//,
    rest: (value) => value.replace(',"NodeIdentity":0', ''),
  },
];

/** Both publishers on one API server. */
interface Sides extends AsyncDisposable {
  readonly ours: OurApiserver;
  /** Starts Cilium's and waits until it is ready. */
  startCilium(): Promise<void>;
  /** Kills it and starts it on an empty etcd, as its pod does: what it had deleted no longer would stand until its lease ends. */
  restartCilium(): Promise<void>;
  compare(): Promise<Comparison>;
}

async function openSides(
  cluster: KubeCluster,
  options: {
    readonly binary: string;
    readonly style: EndpointStyle;
    readonly known: readonly KnownDifference[];
    readonly signal: AbortSignal;
  },
): Promise<Sides> {
  const { binary, style, known, signal } = options;
  const dir = await openTempDir('side-by-side');
  const [left, right] = await Promise.all([openEtcdServer(), openEtcdServer()]);
  const [ourStore, theirStore] = await Promise.all([
    openEtcd({ endpoints: [left.endpoint] }),
    openEtcd({ endpoints: [right.endpoint] }),
  ]);
  const own = { name: PLACE.cluster, id: PLACE.clusterId };
  const ours = await prepareOurApiserver({
    cluster: own,
    etcdEndpoint: left.endpoint,
    source: [
      '--mode=cilium',
      `--kubeconfig=${cluster.adminKubeconfig}`,
      '--clustermesh-enable-mcs-api',
    ],
    dir,
    signal,
  });
  let cilium: CiliumApiserver | undefined;
  const startCilium = async (): Promise<void> => {
    cilium = await startCiliumApiserver(binary, {
      cluster: own,
      kubeconfig: cluster.adminKubeconfig,
      etcdEndpoint: right.endpoint,
      endpointSlices: style === 'cilium-endpoint-slices',
      dir,
      signal,
    });
    await cilium.ready;
  };
  return {
    ours,
    startCilium,
    async restartCilium() {
      await cilium?.kill();
      await right.wipe();
      await startCilium();
    },
    compare: () => compareEtcds(ourStore, theirStore, known),
    async [Symbol.asyncDispose]() {
      await ours[Symbol.asyncDispose]();
      await cilium?.[Symbol.asyncDispose]();
      await Promise.all([ourStore, theirStore].map((store) => store[Symbol.asyncDispose]()));
      await Promise.all([left, right].map((server) => server[Symbol.asyncDispose]()));
      await dir[Symbol.asyncDispose]();
    },
  };
}

/** Waits until both have all that was written before, told by a node that is written last, and are equal. */
async function quiet(
  t: Test,
  step: string,
  {
    sides,
    writer,
    least,
  }: { readonly sides: Sides; readonly writer: KubeWriter; readonly least: number },
): Promise<void> {
  const name = `last-${Math.round(systemClock.monotonic())}`;
  const metadata = { name };
  await writer.write({
    kind: 'put',
    object: { apiVersion: 'cilium.io/v2', kind: 'CiliumNode', metadata, spec: {} },
  });
  let last: Comparison | undefined;
  await waitFor(
    `both to be equal: ${step}`,
    async () => {
      last = await sides.compare();
      const hasLast = last.compared.has(`cilium/state/nodes/v1/${PLACE.cluster}/${name}`);
      return hasLast && last.differences.length === 0;
    },
    { timeoutMs: 10_000, intervalMs: 100 },
  ).catch(() => undefined);
  const { differences = [], compared = new Map() } = last ?? {};
  t.same(
    differences.slice(0, 6),
    [],
    `${step}: ${differences.length} differences of ${compared.size} keys`,
  );
  t.ok(compared.size > least, `${step}: ${compared.size} keys are more than ${least}`);
}

/** A cluster in an API server, and both publishers of it. */
interface Scene extends AsyncDisposable {
  readonly cluster: KubeCluster;
  readonly generated: GeneratedCluster;
  readonly writer: KubeWriter;
  readonly sides: Sides;
  /** See `quiet`. */
  at(step: string, least?: number): Promise<void>;
}

async function openScene(
  t: Test,
  options: {
    readonly version: string;
    readonly style: EndpointStyle;
    readonly exports: 'v1alpha1' | 'v1beta1';
    readonly known: readonly KnownDifference[];
    readonly signal: AbortSignal;
  },
): Promise<Scene> {
  t.comment(`seed ${SEED}`);
  const { version, style, signal } = options;
  const cluster = await openKubeCluster({
    name: PLACE.cluster,
    programs: kube.programs,
    serviceCidrs: ['10.96.0.0/16', 'fd00:96::/112'],
  });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  await cluster.installCrds(CRDS);
  const api = await openKubernetes({ kubeconfig: cluster.adminKubeconfig, clock: systemClock });
  t.teardown(() => api[Symbol.asyncDispose]());
  const writer = createKubeWriter(api, { signal });
  const generated = generateCluster({
    ...PLACE,
    seed: SEED,
    sizes: { nodes: 12, namespaces: 4, identities: 20, pods: 120, services: 40, endpoints: 4 },
    style,
    exports: options.exports,
  });
  await writer.apply(generated.objects().map((object) => ({ kind: 'put', object })));
  const binary = paths[VERSIONS.indexOf(version)] ?? '';
  const sides = await openSides(cluster, { ...options, binary });
  await Promise.all([sides.ours.start(), sides.startCilium()]);
  return {
    cluster,
    generated,
    writer,
    sides,
    at: (step, least = 150) => quiet(t, step, { sides, writer, least }),
    [Symbol.asyncDispose]: () => sides[Symbol.asyncDispose](),
  };
}

/** A signal that ends with the test. */
function signalOf(t: Test): AbortSignal {
  const stopping = new AbortController();
  setMaxListeners(0, stopping.signal);
  t.teardown(() => stopping.abort());
  return stopping.signal;
}

test('the same objects become the same keys and values as with Cilium', {
  skip: skip || kube.skip,
  timeout: 240_000,
}, async (t) => {
  const version = VERSIONS.at(-1) ?? '';
  await using scene = await openScene(t, {
    version,
    style: 'cilium-endpoints',
    exports: 'v1beta1',
    known: KNOWN,
    signal: signalOf(t),
  });
  const { cluster, generated, writer, sides, at } = scene;
  await at('first list');
  for (const round of [1, 2, 3]) {
    await writer.apply(generated.step());
    await at(`churn ${round}`);
  }

  const [first = '', second = ''] = generated.namespaces();
  for (const value of ['false', 'TRUE', 'no such word', undefined]) {
    await writer.apply([generated.setGlobal(first, value)]);
    await at(`the namespace's annotation is ${value}`, 100);
  }
  await writer.apply([generated.setGlobal(second, 'false'), ...generated.step()]);
  await at('a namespace leaves amid changes', 100);

  await sides.ours.kill();
  await writer.apply(generated.step());
  await sides.ours.start();
  await at('ours was killed', 100);
  await writer.apply([generated.setGlobal(second, undefined), ...generated.step()]);
  await sides.restartCilium();
  await at("Cilium's was killed");

  await cluster.restart();
  await writer.apply(generated.step());
  await at('the API server was restarted');
});

test('the same from CiliumEndpointSlices, beside the version before', {
  skip: skip || kube.skip || (VERSIONS.length < 2 && 'there is no version before'),
  timeout: 240_000,
}, async (t) => {
  const version = VERSIONS.at(-2) ?? '';
  await using scene = await openScene(t, {
    version,
    style: 'cilium-endpoint-slices',
    exports: 'v1alpha1',
    known: [...KNOWN, ...KNOWN_BEFORE_1_20],
    signal: signalOf(t),
  });
  const { generated, writer, sides, at } = scene;
  await at('first list');
  for (const round of [1, 2]) {
    await writer.apply(generated.step());
    await at(`churn ${round}`);
  }
  await sides.ours.kill();
  await writer.apply(generated.step());
  await sides.ours.start();
  await at('ours was killed');
});
