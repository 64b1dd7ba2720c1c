import { test } from 'tap';
import type { ClusterChange, ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import { parseClusterId, parseClusterName, parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { createClusterPods } from './cluster-pods.ts';

const OWN: ClusterRef = { name: parseClusterName('alpha'), id: parseClusterId(1), own: true };
const PEER: ClusterRef = { name: parseClusterName('beta'), id: parseClusterId(2), own: false };
const NODE = '192.0.2.1';

function ip(
  prefix: string,
  value: { host?: string | null; pod?: string; isGone?: boolean } = {},
): ClusterChange {
  const { host = NODE, pod = 'web', isGone = false } = value;
  return {
    kind: 'ip',
    prefix: parseIpPrefix(prefix),
    value: isGone
      ? undefined
      : {
          prefix: parseIpPrefix(prefix),
          isCidr: false,
          hostIp: host === null ? null : parseIpAddress(host),
          identity: parseNumericIdentity(65_800),
          encryptionKey: 0,
          metadata: '',
          namespace: 'demo',
          podName: pod === '' ? undefined : pod,
          serviceAccount: undefined,
          namedPorts: undefined,
        },
  };
}

test('pods of this node are those of the own cluster with its address as host', async (t) => {
  const pods = createClusterPods([parseIpAddress(NODE), parseIpAddress('2001:db8::1')]);
  let told = 0;
  pods.onChange(() => {
    told += 1;
  });
  const apply = (cluster: ClusterRef, change: ClusterChange): void =>
    pods.apply(cluster, change, undefined);
  apply(OWN, ip('10.1.0.5/32'));
  apply(OWN, ip('fd00::5/128', { host: '2001:db8::1' }));
  t.equal(told, 2);
  const others: readonly (readonly [ClusterRef, ClusterChange])[] = [
    [PEER, ip('10.1.0.6/32')],
    [OWN, ip('10.1.0.7/32', { host: '192.0.2.2' })],
    [OWN, ip('10.1.0.8/32', { host: null })],
    [OWN, ip('10.1.0.9/32', { pod: '' })],
    [OWN, ip('10.1.1.0/24')],
    [OWN, ip(`${NODE}/32`)],
    [OWN, ip('10.1.0.5/32')],
  ];
  for (const [cluster, change] of others) apply(cluster, change);
  t.same(
    pods.all().map(({ address, podNamespace, podName }) => `${podNamespace}/${podName} ${address}`),
    ['demo/web 10.1.0.5', 'demo/web fd00::5'],
  );
  t.equal(told, 2, 'nothing new is not told');
  apply(OWN, ip('10.1.0.5/32', { pod: 'next' }));
  t.equal(pods.all().find(({ address }) => address === '10.1.0.5')?.podName, 'next');
  apply(OWN, ip('10.1.0.5/32', { isGone: true }));
  apply(OWN, ip('fd00::5/128', { host: '192.0.2.2' }));
  t.same(pods.all(), []);
  t.equal(told, 5);
  pods.synced(PEER, 'ips');
  t.equal(told, 5);
  pods.synced(OWN, 'ips');
  t.equal(told, 6, 'now more may be known');
});
