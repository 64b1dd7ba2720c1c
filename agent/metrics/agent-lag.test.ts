/** The lag of a peer on a real etcd, behind a proxy that holds things up. */
import { setTimeout as wait } from 'node:timers/promises';
import { test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { LagStatus } from '../../mesh/remote/lag.ts';
import { publishCluster } from '../../mesh/remote/testing/published-cluster.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { etcdSkipReason, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openFaultyProxy } from '../../mesh/testing/faulty-proxy.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { ipKey, MESH_STAMP_KEY } from '../../mesh/wire/keys.ts';
import { encodeMeshStamp } from '../../mesh/wire/stamp.ts';
import { openNodeRig } from '../testing/node-rig.ts';
import { publishAlpha } from '../testing/two-clusters.ts';

test('a connection that is held up shows as lag, on a real etcd', {
  skip: etcdSkipReason(process.env),
}, async (t) => {
  await using server = await openEtcdServer();
  await using proxy = await openFaultyProxy({ targetPort: server.port });
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  const beta = publishCluster('beta', 2, store);
  await beta.config();
  await beta.node('m1', '198.51.100.1');
  await beta.identity(257, { app: 'client' });
  await beta.ip('10.2.0.5', { host: '198.51.100.1', local: 257 });
  await beta.marked();
  const template = (await store.get(ipKey(parseIpAddress('10.2.0.5'))))?.value.toString() ?? '';
  const publish = (ip: string) =>
    store.transact({
      compare: [],
      then: [
        { kind: 'put', key: ipKey(parseIpAddress(ip)), value: template.replaceAll('10.2.0.5', ip) },
        { kind: 'put', key: MESH_STAMP_KEY, value: encodeMeshStamp({ at: Date.now() }) },
      ],
    });
  await publish('10.2.0.6');

  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.addPeer(beta, () => openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`] }));
  await rig.start();
  await rig.ready('beta');
  const lagOf = async (): Promise<LagStatus | undefined> =>
    (await rig.status()).clusters.find(({ name }) => name === 'beta')?.lag;
  const samples = async (): Promise<number> => {
    const lag = await lagOf();
    return lag?.kind === 'measured' ? (lag.recent.ips?.samples ?? 0) : 0;
  };
  await until('stamps are followed', async () => /too few/.test(JSON.stringify(await lagOf())));
  for (let count = 0; count < 20; count += 1) {
    await publish(`10.2.1.${count}`);
    await wait(20);
  }
  await until('all were measured', async () => (await samples()) === 20);
  const quick = await lagOf();
  t.comment(JSON.stringify(quick));
  // Generous: the machine may be busy with other tests.
  t.ok(quick?.kind === 'measured' && (quick.recent.ips?.p50Ms ?? 1000) < 250, 'fast as a rule');
  t.ok(quick?.kind === 'measured' && Math.abs(quick.clock.differenceMs) < 250, 'it is one clock');

  proxy.setFaults({ stalled: true });
  await publish('10.2.2.1');
  await wait(700);
  proxy.setFaults({});
  await until('it is in use', () => rig.datapath.ipcache.get('10.2.2.1/32') !== undefined);
  await publish('10.2.2.2');
  await until('both were measured', async () => (await samples()) === 22);
  const late = await lagOf();
  const maxMs = late?.kind === 'measured' ? (late.recent.ips?.maxMs ?? 0) : 0;
  t.ok(maxMs > 550 && maxMs < 3000, `${maxMs} ms for a change that was held up for 700`);
});
