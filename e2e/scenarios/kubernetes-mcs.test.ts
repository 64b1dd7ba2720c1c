/** The conformance list of the Multi-Cluster Services API at the level of objects and names, on two real API servers. */
import { type Test, test } from 'tap';
import { waitFor } from '../lab/wait-for.ts';
import { corednsPeer, startCoredns } from '../peers/coredns.ts';
import { needKube } from '../peers/kube-programs.ts';
import { needPeers } from '../peers/peer-binary.ts';
import {
  HELLO_SPEC,
  type Import,
  type McsCluster,
  manifest,
  openMcsRig,
  type Slice,
} from './mcs-rig.ts';

const kube = needKube(process.env);
const coredns = needPeers([corednsPeer], process.env);

/** What CoreDNS may do in any cluster; what it needs for us is in a manifest. */
const COREDNS_RULES = [
  {
    apiGroups: [''],
    resources: ['namespaces', 'services', 'pods', 'endpoints'],
    verbs: ['list', 'watch'],
  },
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
];

type Rig = { readonly alpha: McsCluster; readonly beta: McsCluster };

/** Waits for an import that `holds`; the test fails with what it was last. */
async function untilImport(
  cluster: McsCluster,
  namespace: string,
  holds: (found: Import) => boolean = () => true,
): Promise<Import> {
  let last: Import | undefined;
  try {
    return await waitFor(
      `the import of ${namespace} in ${cluster.name}`,
      async () => {
        last = await cluster.importOf(namespace);
        return last !== undefined && holds(last) ? last : undefined;
      },
      { intervalMs: 50, timeoutMs: 20_000 },
    );
  } catch (cause) {
    throw new Error(`${cluster.name}/${namespace}: ${JSON.stringify(last)}`, { cause });
  }
}

async function untilNoImport(cluster: McsCluster, namespace: string): Promise<void> {
  await waitFor(
    `no import of ${namespace} in ${cluster.name}`,
    async () => (await cluster.importOf(namespace)) === undefined,
    { intervalMs: 50, timeoutMs: 20_000 },
  );
}

async function untilConditions(
  t: Test,
  cluster: McsCluster,
  { namespace, wanted }: { namespace: string; wanted: Readonly<Record<string, string>> },
): Promise<void> {
  let last: Readonly<Record<string, string>> = {};
  await waitFor(
    `the conditions of ${namespace} in ${cluster.name}`,
    async () => {
      last = await cluster.conditions(namespace);
      return Object.entries(wanted).every(([type, text]) => last[type] === text);
    },
    { intervalMs: 50, timeoutMs: 20_000 },
  ).catch(() => undefined);
  t.match(last, wanted, `conditions of ${cluster.name}`);
}

async function untilSlices(
  cluster: McsCluster,
  namespace: string,
  holds: (slices: readonly Slice[]) => boolean,
): Promise<readonly Slice[]> {
  let last: readonly Slice[] = [];
  try {
    await waitFor(
      'slices',
      async () => {
        last = await cluster.mcsSlices(namespace);
        return holds(last);
      },
      { intervalMs: 50, timeoutMs: 20_000 },
    );
  } catch (cause) {
    throw new Error(`${cluster.name}/${namespace}: ${JSON.stringify(last)}`, { cause });
  }
  return last;
}

const portsOf = ({ spec }: Import): string[] =>
  spec.ports.map(({ name = '', port, protocol }) => `${name} ${port}/${protocol}`).sort();
const isReady = ({ status }: Import): boolean =>
  status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') === true;
const addressesOf = (slices: readonly Slice[], type: string): string[] =>
  slices
    .filter(({ addressType }) => addressType === type)
    .flatMap(({ endpoints }) => (endpoints ?? []).flatMap(({ addresses }) => addresses))
    .sort();

/** Everything that the tests look at, made at once. */
async function deployAll({ alpha, beta }: Rig): Promise<void> {
  const port = (name: string, number: number, protocol = 'TCP') => ({
    name,
    port: number,
    protocol,
  });
  const with1 = (ports: readonly object[]) => ({ spec: { ...HELLO_SPEC, ports } });
  const headless = { ...HELLO_SPEC, clusterIP: 'None' };
  await Promise.all([
    alpha.deploy('single', {
      pods: ['a-0'],
      spec: { ...HELLO_SPEC, internalTrafficPolicy: 'Local', trafficDistribution: 'PreferClose' },
      exported: { exportedLabels: { tier: 'gold' }, exportedAnnotations: { note: 'x' } },
    }),
    beta.deploy('single', { exported: false }),
    alpha.deploy('unexported', { exported: false }),
    beta.deploy('unexported', { exported: false }),
    alpha.deploy('ports', with1([port('tcp', 42), port('udp', 42, 'UDP')])),
    alpha.deploy('clash', { pods: ['a-0'], ...with1([port('tcp', 42)]) }),
    alpha.deploy('kinds', {}),
    alpha.deploy('labels', { exported: { exportedLabels: { a: '1' } } }),
    alpha.deploy('headless', { pods: ['a-0', 'a-1'], spec: headless }),
    beta.deploy('headless', { exported: false }),
    alpha.deploy('external', { spec: { type: 'ExternalName', externalName: 'example.com' } }),
    beta.deploy('external', { exported: false }),
  ]);
  await Promise.all([
    beta.deploy('ports', with1([port('tcp', 42), port('extra', 142, 'SCTP')])),
    beta.deploy('clash', { pods: ['b-0'], ...with1([port('tcp', 43)]) }),
    beta.deploy('kinds', { spec: headless }),
    beta.deploy('labels', {
      exported: { exportedLabels: { b: '1' }, exportedAnnotations: { b: '1' } },
    }),
  ]);
}

test('multi-cluster services on two API servers', {
  skip: kube.skip || coredns.skip,
  timeout: 240_000,
}, async (t) => {
  const rig = await openMcsRig(t, kube.programs);
  const { alpha, beta } = rig;
  const both = [alpha, beta] as const;
  await deployAll(rig);

  await t.test('3, 4, 5, 6, 8: an import in every cluster, as the Service is', async (t) => {
    for (const cluster of both) {
      const { spec, status } = await untilImport(cluster, 'single', isReady);
      t.equal(spec.type, 'ClusterSetIP');
      t.equal(spec.sessionAffinity, 'ClientIP');
      t.strictSame(spec.sessionAffinityConfig, { clientIP: { timeoutSeconds: 10 } });
      t.equal(spec.internalTrafficPolicy, 'Local');
      t.equal(spec.trafficDistribution, 'PreferClose');
      t.strictSame(spec.ports, HELLO_SPEC.ports);
      t.strictSame(status?.clusters, [{ cluster: 'alpha' }]);
    }
    await untilConditions(t, alpha, {
      namespace: 'single',
      wanted: { Valid: 'True Valid', Ready: 'True Ready', Conflict: 'False NoConflicts' },
    });
  });

  await t.test('7: an address of each family, in their order', async (t) => {
    for (const [cluster, v4, v6] of [
      [alpha, /^10\.96\./, /^fd00:96::/],
      [beta, /^10\.97\./, /^fd00:97::/],
    ] as const) {
      const { spec } = await untilImport(cluster, 'single', isReady);
      t.strictSame(spec.ipFamilies, ['IPv4', 'IPv6']);
      t.equal(spec.ips?.length, 2);
      t.match(spec.ips?.[0], v4);
      t.match(spec.ips?.[1], v6);
    }
  });

  await t.test('9: the union of the ports, and a conflict on each export', async (t) => {
    for (const cluster of both) {
      await untilConditions(t, cluster, {
        namespace: 'ports',
        wanted: { Valid: 'True Valid', Conflict: 'True PortConflict' },
      });
      const found = await untilImport(cluster, 'ports', (one) => one.spec.ports.length === 3);
      t.strictSame(portsOf(found), ['extra 142/SCTP', 'tcp 42/TCP', 'udp 42/UDP']);
    }
  });

  await t.test('10, 26: the oldest port counts, and only who agrees is reached', async (t) => {
    for (const cluster of both) {
      await untilConditions(t, cluster, {
        namespace: 'clash',
        wanted: { Conflict: 'True PortConflict' },
      });
      // Ready comes first: until both know of each other, each has its own port.
      const agreed = (one: Import): boolean => isReady(one) && portsOf(one).join() === 'tcp 42/TCP';
      await untilImport(cluster, 'clash', agreed);
      const isOfAlpha = ({ metadata }: Slice): boolean =>
        metadata.labels['multicluster.kubernetes.io/source-cluster'] === 'alpha';
      await untilSlices(cluster, 'clash', (all) => all.length === 2 && all.every(isOfAlpha));
    }
  });

  await t.test('14: headless here and not there', async (t) => {
    for (const cluster of both) {
      await untilConditions(t, cluster, {
        namespace: 'kinds',
        wanted: { Conflict: 'True TypeConflict' },
      });
      const { spec } = await untilImport(cluster, 'kinds', isReady);
      t.equal(spec.type, 'ClusterSetIP');
    }
  });

  await t.test('15, 16: exported labels and annotations alone, of the oldest', async (t) => {
    for (const cluster of both) {
      const { metadata } = await untilImport(cluster, 'single', isReady);
      t.strictSame(metadata.labels, { tier: 'gold' });
      t.equal(metadata.annotations.note, 'x');
      t.notOk('own' in metadata.annotations, "neither the Service's nor the export's own");
      await untilConditions(t, cluster, {
        namespace: 'labels',
        wanted: { Conflict: 'True AnnotationsConflict' },
      });
      const other = await untilImport(cluster, 'labels', isReady);
      t.strictSame(other.metadata.labels, { a: '1' });
      t.notOk('b' in other.metadata.annotations);
    }
  });

  await t.test('11, 12: a headless import has no address', async (t) => {
    for (const cluster of both) {
      const { spec, status } = await untilImport(cluster, 'headless', isReady);
      t.equal(spec.type, 'Headless');
      t.equal(spec.ips, undefined);
      t.equal(status?.endpointSliceObjects, 'Present');
    }
  });

  await t.test('13: ExternalName is not exported', async (t) => {
    await untilConditions(t, alpha, {
      namespace: 'external',
      wanted: { Valid: 'False InvalidServiceType', Ready: 'False Pending' },
    });
    t.equal(await beta.importOf('external'), undefined);
  });

  await t.test('17: EndpointSlices in every cluster', async (t) => {
    for (const cluster of both) {
      const slices = await untilSlices(
        cluster,
        'single',
        (all) => addressesOf(all, 'IPv4').length === 1 && addressesOf(all, 'IPv6').length === 1,
      );
      for (const { metadata } of slices) {
        t.equal(metadata.labels['multicluster.kubernetes.io/source-cluster'], 'alpha');
        t.not(
          metadata.labels['endpointslice.kubernetes.io/managed-by'],
          'endpointslice-controller.k8s.io',
        );
      }
    }
  });

  await t.test('18 to 23: names, by CoreDNS', async (t) => {
    for (const cluster of both) {
      const { kubeconfig } = await cluster.kube.addUser('coredns', {
        namespace: 'kube-system',
        rules: COREDNS_RULES,
      });
      await cluster.kube.kubectl(['apply', `--filename=${manifest('mcs-coredns.yaml')}`]);
      await using dns = await startCoredns({ kubeconfig });
      const { spec } = await untilImport(cluster, 'single', isReady);
      const single = 'hello.single.svc.clusterset.local';
      // It says that it is ready a moment before it listens.
      await waitFor('answers', async () => (await dns.query(single, 'A')).length > 0);
      t.strictSame(await dns.query(single, 'A'), spec.ips?.slice(0, 1), '18');
      t.strictSame(await dns.query(single, 'AAAA'), spec.ips?.slice(1), '18');
      t.match(
        (await dns.query(`_tcp._tcp.${single}`, 'SRV')).join(),
        / 42 .*clusterset\.local/,
        '19',
      );
      t.strictSame(await dns.query('hello.unexported.svc.clusterset.local', 'A'), [], '1');
      const local = await dns.query('hello.unexported.svc.cluster.local', 'A');
      t.equal(local.length, 1, '20');
      const slices = await untilSlices(
        cluster,
        'headless',
        (all) => addressesOf(all, 'IPv4').length === 2,
      );
      const headless = 'hello.headless.svc.clusterset.local';
      t.strictSame(
        await waitFor('all pods', async () => {
          const found = await dns.query(headless, 'A');
          return found.length === 2 && found;
        }),
        addressesOf(slices, 'IPv4'),
        '21',
      );
      const first = slices
        .filter(({ addressType }) => addressType === 'IPv4')
        .flatMap(({ endpoints }) => endpoints ?? [])
        .find(({ hostname }) => hostname === 'a-0');
      t.strictSame(await dns.query(`a-0.alpha.${headless}`, 'A'), first?.addresses, '22');
      const targets = (await dns.query(`_tcp._tcp.${headless}`, 'SRV')).join(' ');
      t.match(targets, /a-0\.alpha\.hello\.headless/, '23');
      t.match(targets, /a-1\.alpha\.hello\.headless/, '23');
    }
  });

  await t.test('1: what is not exported is nowhere', async (t) => {
    for (const cluster of both) t.equal(await cluster.importOf('unexported'), undefined);
  });

  await t.test('2, 3, 11, 17: unexporting takes all of it away, the last one', async (t) => {
    await Promise.all([alpha.unexport('single'), alpha.unexport('headless')]);
    await alpha.unexport('labels');
    for (const cluster of both) {
      await untilNoImport(cluster, 'single');
      await untilNoImport(cluster, 'headless');
      await untilSlices(cluster, 'single', (all) => all.length === 0);
      const { metadata } = await untilImport(
        cluster,
        'labels',
        ({ status }) => status?.clusters?.length === 1,
      );
      t.strictSame(metadata.labels, { b: '1' }, 'the other one counts now');
    }
    await beta.unexport('labels');
    for (const cluster of both) await untilNoImport(cluster, 'labels');
    t.pass('all is gone');
  });

  const title = 'promise 6: an apiserver that starts without its peer takes nothing away';
  await t.test(title, async (t) => {
    const before = await untilImport(beta, 'clash', isReady);
    const slices = await beta.mcsSlices('clash');
    t.equal(slices.length, 2);
    await alpha.apiserver.kill();
    await beta.apiserver.stop();
    await beta.apiserver.start();
    await beta.exportHello('unexported');
    await untilConditions(t, beta, { namespace: 'unexported', wanted: { Valid: 'True Valid' } });
    await untilConditions(t, beta, { namespace: 'clash', wanted: { Conflict: 'Unknown Pending' } });
    const after = await beta.importOf('clash');
    t.equal(after?.metadata.uid, before.metadata.uid);
    t.strictSame(after?.spec, before.spec);
    t.strictSame(await beta.mcsSlices('clash'), slices, 'nor the slices of its endpoints');
  });
});
