/** Multi-cluster services of a peer on one real API server, whatever people do to the objects, and whatever the peer says. */
import { test } from 'tap';
import { createMcsPart } from '../../clustermesh-apiserver/controllers/mcs/mcs-part.ts';
import { readServedApi } from '../../clustermesh-apiserver/controllers/mcs/read-served-api.ts';
import { openKubernetes } from '../../clustermesh-apiserver/kubernetes/api.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { CANARY_PREFIXES, serviceExportKey, syncedKey } from '../../mesh/wire/keys.ts';
import { encodeServiceExport, type ServiceExport } from '../../mesh/wire/service-export.ts';
import { waitFor } from '../lab/wait-for.ts';
import { needKube } from '../peers/kube-programs.ts';
import { type EtcdPeer, openControllersRig } from './controllers-rig.ts';
import { type Import, type Json, manifest } from './mcs-rig.ts';

const { skip, programs } = needKube(process.env);

const GROUP = 'multicluster.x-k8s.io';
/** Of `demo/hello`. */
const DERIVED = 'derived-clkj3a8mu9';
const MERGE = 'application/merge-patch+json';

/** A Service as far as tests look at it. */
interface Service {
  readonly metadata: { readonly uid: string; readonly ownerReferences: readonly { uid: string }[] };
  readonly spec: {
    readonly clusterIP: string;
    readonly ports: readonly { readonly name?: string; readonly port: number }[];
  };
}

const helloOf = (fields: Partial<ServiceExport> = {}): ServiceExport => ({
  cluster: parseClusterName('beta'),
  namespace: 'demo',
  name: 'hello',
  annotations: undefined,
  labels: undefined,
  legacyCopies: true,
  exportedAt: Date.parse('2026-01-02T03:04:05Z'),
  ports: [{ name: 'http', protocol: 'TCP', appProtocol: undefined, port: 80 }],
  type: 'ClusterSetIP',
  sessionAffinity: 'None',
  sessionAffinityConfig: undefined,
  ipFamilies: ['IPv4'],
  internalTrafficPolicy: 'Cluster',
  trafficDistribution: 'PreferClose',
  ...fields,
});
const keyOf = ({ cluster, namespace, name }: ServiceExport): string =>
  serviceExportKey(cluster, namespace, name);
const publish = (peer: EtcdPeer, record: ServiceExport): Promise<void> =>
  peer.store.put(keyOf(record), encodeServiceExport(record));

/** Definitions of the oldest release: one version, without a label, and with the first fields alone. */
const oldDefinition = (plural: string, kind: string): object => ({
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: `${plural}.${GROUP}` },
  spec: {
    group: GROUP,
    scope: 'Namespaced',
    names: { plural, kind, singular: kind.toLowerCase() },
    versions: [
      {
        name: 'v1alpha1',
        served: true,
        storage: true,
        subresources: { status: {} },
        schema: {
          openAPIV3Schema: {
            type: 'object',
            properties: {
              spec: {
                type: 'object',
                properties: {
                  ips: { type: 'array', items: { type: 'string' } },
                  type: { type: 'string' },
                  sessionAffinity: { type: 'string' },
                  ports: {
                    type: 'array',
                    'x-kubernetes-list-type': 'atomic',
                    items: {
                      type: 'object',
                      properties: {
                        name: { type: 'string' },
                        port: { type: 'integer' },
                        protocol: { type: 'string' },
                      },
                    },
                  },
                },
              },
              status: {
                type: 'object',
                properties: {
                  clusters: {
                    type: 'array',
                    items: { type: 'object', properties: { cluster: { type: 'string' } } },
                  },
                  conditions: {
                    type: 'array',
                    items: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
                  },
                },
              },
            },
          },
        },
      },
    ],
  },
});

test('multi-cluster services are kept right', { skip, timeout: 240_000 }, async (t) => {
  const rig = await openControllersRig(t, { name: 'mcs-repair', programs });
  const { cluster } = rig;
  const definitions = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
  await cluster.ask('POST', definitions, {
    body: oldDefinition('serviceexports', 'ServiceExport'),
  });
  await cluster.ask('POST', definitions, {
    body: oldDefinition('serviceimports', 'ServiceImport'),
  });
  const peer = await rig.addPeer('beta', 2);
  await peer.config({ capabilities: { serviceExportsEnabled: true } });
  await publish(peer, helloOf());
  await peer.marked();
  await peer.store.put(
    syncedKey(peer.name, CANARY_PREFIXES.serviceexports),
    '2026-01-01T00:00:00Z',
  );
  await peer.configure();
  const start = (replica: string, installCrds: boolean) =>
    rig.start(replica, {
      kubeconfig: cluster.adminKubeconfig,
      endpointSliceSync: undefined,
      parts: [(context) => createMcsPart(context, { installCrds })],
    });
  const importPath = (version: string) =>
    `/apis/${GROUP}/${version}/namespaces/demo/serviceimports`;
  const find = async <T>(path: string): Promise<T | undefined> => {
    const { status, body } = await cluster.send('GET', path);
    return status === 200 ? (body as T) : undefined;
  };
  const services = '/api/v1/namespaces/demo/services';
  const findImport = (name = 'hello', version = 'v1beta1') =>
    find<Import>(`${importPath(version)}/${name}`);
  const findDerived = () => find<Service>(`${services}/${DERIVED}`);
  const until = <T>(what: string, look: () => Promise<T | false | undefined>): Promise<T> =>
    waitFor(what, look, { intervalMs: 50, timeoutMs: 20_000 });
  const readyOf = (found: Import | undefined): string =>
    (found?.status?.conditions ?? []).map(({ status, reason }) => `${status} ${reason}`).join();
  const untilReady = (wanted: string, version?: string): Promise<Import> =>
    until(`Ready=${wanted}`, async () => {
      const found = await findImport('hello', version);
      return found !== undefined && readyOf(found) === wanted && found;
    });

  await t.test('the version is known without permission to read definitions', async (t) => {
    const { kubeconfig } = await cluster.addUser('blind');
    await using api = await openKubernetes({ kubeconfig, clock: systemClock });
    const answer = await readServedApi(api, new AbortController().signal);
    t.match(answer, { kind: 'served', api: { version: 'v1alpha1' } });
  });

  await t.test('on definitions of the oldest release', async (t) => {
    const replica = await start('old', false);
    const { spec, status, metadata } = await untilReady('True Ready', 'v1alpha1');
    t.strictSame(spec.ports, [{ name: 'http', port: 80, protocol: 'TCP' }]);
    t.match(spec.ips?.[0], /^10\.96\./);
    t.equal(metadata.annotations['multicluster.kubernetes.io/derived-service'], DERIVED);
    t.strictSame(status?.clusters, [{ cluster: 'beta' }]);
    t.notOk('trafficDistribution' in spec, 'what they do not have is not sent');
    await replica.stop();
  });

  const replica = await start('new', true);
  await t.test(
    'definitions are brought up to date, and the rest of the fields comes',
    async (t) => {
      const found = await until('all fields', async () => {
        const one = await findImport();
        return one?.spec.trafficDistribution === 'PreferClose' && one;
      });
      t.strictSame(found.spec.ipFamilies, ['IPv4']);
      const { metadata } = (await cluster.ask('GET', `${definitions}/serviceimports.${GROUP}`)) as {
        metadata: { labels: Json };
      };
      t.equal(metadata.labels[`${GROUP}/release-version`], 'v0.5.2');
      const applied = await cluster.kubectl([
        'apply',
        '--dry-run=server',
        `--filename=${manifest('mcs-crds.yaml')}`,
      ]);
      t.match(applied, /serviceexports.*\n.*serviceimports/, 'and people may apply them, too');
    },
  );

  await t.test('what people delete or change comes back', async (t) => {
    const before = await untilReady('True Ready');
    await cluster.ask('DELETE', `${services}/${DERIVED}`);
    const service = await until('the derived Service', findDerived);
    const withIp = await until('its address', async () => {
      const found = await findImport();
      return found?.spec.ips?.[0] === service.spec.clusterIP && found;
    });
    t.equal(withIp.metadata.uid, before.metadata.uid);

    await cluster.ask('PATCH', `${services}/${DERIVED}`, {
      body: { spec: { ports: [{ name: 'http', port: 81 }] } },
      contentType: MERGE,
    });
    await until('the port', async () => (await findDerived())?.spec.ports[0]?.port === 80);

    await cluster.ask('PATCH', `${importPath('v1beta1')}/hello`, {
      body: { spec: { type: 'Headless', ports: [] } },
      contentType: MERGE,
    });
    await until('the type', async () => (await findImport())?.spec.type === 'ClusterSetIP');

    await cluster.ask('DELETE', `${importPath('v1beta1')}/hello`);
    const again = await until('another import', async () => {
      const found = await findImport();
      return found !== undefined && found.metadata.uid !== before.metadata.uid && found;
    });
    await until('its derived Service', async () => {
      const found = await findDerived();
      return found?.metadata.ownerReferences.some(({ uid }) => uid === again.metadata.uid);
    });
    t.pass('all of it');
  });

  await t.test('a service that becomes headless, and back', async (t) => {
    await publish(peer, helloOf({ type: 'Headless' }));
    await until('no address', async () => (await findDerived())?.spec.clusterIP === 'None');
    const headless = await until('the import', async () => {
      const found = await findImport();
      return found?.spec.type === 'Headless' && found.spec.ips === undefined && found;
    });
    t.equal(headless.spec.type, 'Headless');
    await publish(peer, helloOf());
    const back = await until('an address', async () => {
      const found = await findImport();
      return found?.spec.ips?.length === 1 && found;
    });
    t.equal(back.spec.type, 'ClusterSetIP');
  });

  await t.test('nothing is written when nothing differs', async (t) => {
    const reconciled = (): number =>
      replica.controllers.status.parts
        .flatMap(({ controllers }) => controllers)
        .reduce((sum, controller) => sum + controller.reconciled, 0);
    await untilReady('True Ready');
    const before = { reconciled: reconciled(), ...replica.controllers.status.writes };
    await cluster.ask('PATCH', '/api/v1/namespaces/demo', {
      body: { metadata: { labels: { touched: 'yes' } } },
      contentType: MERGE,
    });
    await until('a reconcile', async () => reconciled() > before.reconciled);
    t.equal(replica.controllers.status.writes.written, before.written);
  });

  await t.test('a namespace that is not global', async (t) => {
    const setGlobal = (value: string | null) =>
      cluster.ask('PATCH', '/api/v1/namespaces/demo', {
        body: { metadata: { annotations: { 'clustermesh.cilium.io/global': value } } },
        contentType: MERGE,
      });
    await setGlobal('false');
    const found = await untilReady('False NamespaceNotGlobal');
    t.equal(found.spec.ips, undefined);
    await until('no derived Service', async () => (await findDerived()) === undefined);
    await setGlobal(null);
    await untilReady('True Ready');
  });

  await t.test("somebody else's Service of the derived name is left alone", async (t) => {
    await peer.store.delete(keyOf(helloOf()));
    await until('nothing', async () => (await findImport()) === undefined);
    await until('no Service', async () => (await findDerived()) === undefined);
    await cluster.ask('POST', services, {
      body: { metadata: { name: DERIVED }, spec: { ports: [{ port: 1 }] } },
    });
    await publish(peer, helloOf());
    await untilReady('False DerivedServiceNameTaken');
    t.equal((await findDerived())?.spec.ports[0]?.port, 1);
    const events = await until('an Event', async () => {
      const { items } = (await cluster.ask(
        'GET',
        '/apis/events.k8s.io/v1/namespaces/demo/events',
      )) as {
        items: { reason: string; regarding: { kind: string; name: string } }[];
      };
      return items.filter(({ reason }) => reason === 'DerivedServiceNameTaken');
    });
    t.match(events[0]?.regarding, { kind: 'ServiceImport', name: 'hello' });
    await cluster.ask('DELETE', `${services}/${DERIVED}`);
    await untilReady('True Ready');
  });

  await t.test('what Kubernetes would refuse hinders nothing else', async (t) => {
    await publish(
      peer,
      helloOf({
        name: 'bad',
        labels: { 'no label': 'x', good: 'yes' },
        annotations: { '/': 'x' },
        trafficDistribution: 'PreferSameNode',
        ipFamilies: ['IPv6', 'IPv4', 'IPv9'],
        ports: [
          { name: 'http', protocol: 'TCP', appProtocol: 'not a name', port: 80 },
          { name: 'NOT A NAME', protocol: 'TCP', appProtocol: undefined, port: 81 },
          { name: 'quic', protocol: 'QUIC', appProtocol: undefined, port: 82 },
        ],
      }),
    );
    const found = await until('an import', async () => {
      const one = await findImport('bad');
      return readyOf(one) === 'True Ready' && one;
    });
    t.strictSame(found.metadata.labels, { good: 'yes' });
    t.strictSame(found.spec.ports, [{ name: 'http', port: 80, protocol: 'TCP' }]);
    t.strictSame(found.spec.ipFamilies, ['IPv6', 'IPv4']);
    t.equal(found.spec.ips?.length, 2);
    t.equal(readyOf(await findImport()), 'True Ready');
  });

  await t.test('a peer that was removed takes its exports along', async (t) => {
    await peer.unconfigure();
    for (const name of ['hello', 'bad']) {
      await until(`no import ${name}`, async () => (await findImport(name)) === undefined);
    }
    await until('no derived Service', async () => (await findDerived()) === undefined);
    t.pass('all is gone');
  });
});
