import { test } from 'tap';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { KvEvent } from '../mesh/kvstore/kvstore.ts';
import { openEtcdCluster } from '../mesh/testing/etcd-cluster.ts';
import { etcdSkipReason } from '../mesh/testing/etcd-server.ts';
import { describeEvent, openWatchLog, type WatchLog } from '../mesh/testing/watch-log.ts';
import { eventually } from './testing/publishing-rig.ts';
import { openReplicaSite } from './testing/replica-site.ts';

const skip = etcdSkipReason(process.env);
const LONG = process.env.ISTHMUS_LONG === 'true';

const ip = (index: number): string => `10.1.0.${index}`;
const ipKey = (index: number): string => `cilium/state/ip/v1/default/${ip(index)}`;
const pod = (index: number): string => `apiVersion: v1
kind: Pod
metadata: {name: web-${index}, namespace: demo, labels: {app: a${index % 5}}}
spec: {nodeName: n1}
status: {podIP: ${ip(index)}, hostIP: 192.0.2.1}
`;
const NODE = `apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
`;

/** What is no data: signs of life. */
const SIGNS = /^cilium\/\.heartbeat$|^isthmus\/mesh\/stamp$|^isthmus\/mesh\/digest\//;

/** Events from a place in a log on, without signs of life. */
function changesSince(log: WatchLog, start: number): string[] {
  const isData = (event: KvEvent): boolean =>
    (event.kind === 'put' && !SIGNS.test(event.pair.key)) ||
    (event.kind === 'delete' && !SIGNS.test(event.key));
  return log.events.slice(start).filter(isData).map(describeEvent);
}

test('two apiservers on one etcd of three: whatever dies, agents see no change of what did not change (promise 3)', {
  skip,
  timeout: 120_000,
}, async (t) => {
  await using etcd = await openEtcdCluster();
  const site = await openReplicaSite(t);
  const flags = etcd.endpoints.map((endpoint) => `--etcd-endpoints=${endpoint}`);
  await site.write('base.yaml', [NODE, ...[1, 2, 3, 4, 5, 6].map(pod)].join('---\n'));
  const replicas = [await site.replica(flags), await site.replica(flags)];
  await Promise.all(replicas.map((replica) => replica.start()));
  const leading = async (): Promise<(typeof replicas)[number]> => {
    let found: (typeof replicas)[number] | undefined;
    await eventually('one leader', async () => {
      const leads = await Promise.all(replicas.map((replica) => replica.leads()));
      found = replicas[leads.indexOf(true)];
      return leads.filter(Boolean).length === 1;
    });
    if (found === undefined) throw new Error('there was a leader');
    return found;
  };

  await using direct = await openEtcd({ endpoints: etcd.endpoints });
  await using data = openWatchLog(direct, { prefix: 'cilium/' });
  const agent = await site.openReader(replicas.map(({ gatePort }) => gatePort));
  await using seen = openWatchLog(agent, { prefix: 'cilium/state/' });
  await data.until('the list', ({ of }) => of('synced').length > 0);
  await data.until('the markers', ({ held }) => held.has('cilium/synced/alpha/cilium/state/ip/v1'));
  await seen.until('the list', ({ of }) => of('synced').length > 0);
  const leases = async (): Promise<bigint[]> => {
    const { pairs } = await direct.list('cilium/state/ip/');
    return [...new Set(pairs.map(({ lease }) => lease))];
  };
  const before = await leases();
  t.equal(before.length, 1, 'everything hangs on one lease');

  /** Adds a pod and waits until agents and etcd have it; what else happened meanwhile is compared with nothing. */
  const prove = async (what: string, index: number, act: () => Promise<unknown>) => {
    const [inEtcd, atAgent] = [data.events.length, seen.events.length];
    const began = performance.now();
    await act();
    await site.write(`pod-${index}.yaml`, pod(index));
    const has = ({ held }: WatchLog): boolean => held.has(ipKey(index));
    await Promise.all([
      data.until(`${what}: the new pod in etcd`, has, 30_000),
      seen.until(`${what}: the new pod at an agent`, has, 30_000),
    ]);
    t.comment(`${what}: the next change came after ${Math.round(performance.now() - began)} ms`);
    await leading();
    t.same(changesSince(data, inEtcd), [`put ${ipKey(index)}`], `${what}: nothing else in etcd`);
    const shown = changesSince(seen, atAgent).filter((text) => text.startsWith('delete'));
    t.same(shown, [], `${what}: nothing goes at an agent`);
    t.same(await leases(), before, `${what}: on the same lease`);
  };

  const first = await leading();
  const [second] = replicas.filter((replica) => replica !== first);
  await prove('nothing dies', 10, async () => undefined);
  await prove('the publishing apiserver is killed', 11, () => first.kill());
  t.ok(await second?.leads());
  await prove('it comes back', 12, () => first.start());
  t.notOk(await first.leads(), 'it stands by');
  await prove('a member of etcd is killed', 13, async () => (await etcd.leader()).kill());
  for (const member of etcd.members) {
    await member.kill();
    member.start();
  }
  await etcd.untilHealthy();
  await prove('etcd has no quorum for a while', 14, async () => undefined);
  await prove('the lead of etcd moves', 15, () => etcd.moveLeader());
  if (!LONG) return;
  await prove('the apiserver on standby is killed', 16, () => first.kill());
  await first.start();
  await prove('the publishing apiserver is stopped in order', 17, async () => {
    await second?.kill('SIGTERM');
  });
  await second?.start();
  await prove('the publishing apiserver hangs', 18, async () => first.pause());
  first.resume();
  await prove('it goes on, and finds that another leads', 19, async () => undefined);
});
