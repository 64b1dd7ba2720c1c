/** Cilium's own reading code takes a machine for what it is: an address that is its own host, with an identity and a Service. */
import { test } from 'tap';
import {
  createRegistryAuthority,
  enrolMachineAt,
  machineHello,
  openMachineStream,
  startMachineReplica,
} from '../../clustermesh-apiserver/registry/testing/machine-registry.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { waitFor } from '../lab/wait-for.ts';
import { readCluster } from '../peers/kvtool.ts';
import { needPeers, testedCiliums } from '../peers/peer-binary.ts';

const SERVICE = {
  apiVersion: 'v1',
  kind: 'Service',
  metadata: {
    name: 'db',
    namespace: 'demo',
    annotations: { 'service.cilium.io/global': 'true' },
  },
  spec: { clusterIP: '10.96.0.1', selector: { app: 'db' }, ports: [{ port: 5432 }] },
};

for (const version of testedCiliums(process.env)) {
  const { skip, paths } = needPeers([`${version}/kvtool`], process.env);
  const [kvtool = ''] = paths;

  test(`${version} resolves the address of a machine to its identity (promise 2)`, {
    skip,
    timeout: 60_000,
  }, async (t) => {
    await using etcd = await openEtcdServer();
    await using dir = await openTempDir('cilium-machines');
    const { authority, server } = await createRegistryAuthority(dir);
    await using replica = await startMachineReplica({
      store: await openEtcd({ endpoints: [etcd.endpoint] }),
      server,
      graceMs: 60_000,
    });
    replica.pushed.set(SERVICE);
    await enrolMachineAt(replica, 'db');
    const certificate = await authority.issue('machine-db');
    const stream = await openMachineStream(replica.registry.address, certificate);
    t.teardown(() => stream.close());
    stream.send(machineHello('db', 'boot'));
    const addresses = ['192.0.2.10', '2001:db8::10'];
    stream.send({ machine: { sequence: 1, addresses, boot_id: 'boot' } });
    stream.send({ health: { results: [{ check: 'tcp:5432', healthy: true }] } });
    await using direct = await openEtcd({ endpoints: [etcd.endpoint] });
    await waitFor('the machine to serve', async () => {
      const pair = await direct.get('cilium/state/services/v1/alpha/demo/db');
      return pair?.value.includes('192.0.2.10');
    });
    const events = await readCluster(kvtool, { name: 'alpha', id: 1 }, { endpoint: etcd.endpoint });
    t.same(
      events.filter(({ event }) => event === 'refused'),
      [],
    );
    const acceptedOf = (kind: string, end: string): string => {
      const found = events.find(
        ({ event, ...told }) =>
          event === 'accepted' && told.kind === kind && told.key.endsWith(end),
      );
      return found?.value.toString('utf8') ?? '{}';
    };
    for (const address of addresses) {
      const entry = JSON.parse(acceptedOf('ip', address));
      t.match(entry, { IP: address, HostIP: address, K8sNamespace: 'demo', K8sPodName: 'db' });
      const labels = acceptedOf('identity', String(entry.ID));
      t.match(labels, /k8s:app=db;/, `${address} has the identity of its labels`);
    }
    const service = JSON.parse(acceptedOf('service', 'demo/db'));
    t.match(service, { backends: { '192.0.2.10': {} } });
  });
}
