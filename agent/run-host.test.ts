/** The host as an endpoint, as an agent makes it: a machine of its cluster, and a node that policies select. */
import { test } from 'tap';
import { until } from '../mesh/remote/testing/until.ts';
import { HOST_ENDPOINT_ID } from '../mesh/wire/maps.ts';
import { callAgent } from './api/client.ts';
import type { EndpointEntry } from './datapath/desired.ts';
import { createMemoryDatapath } from './state/memory-datapath.ts';
import { type NodeRig, openNodeRig } from './testing/node-rig.ts';
import { ipcacheText, policyText, publishAlpha } from './testing/two-clusters.ts';

const MACHINE = 65_800;
const CLIENT = 65_794;
const HOST = String(HOST_ENDPOINT_ID);
const CLUSTERWIDE = { kind: 'CiliumClusterwideNetworkPolicy', namespace: '' } as const;

const hostOf = ({ datapath }: NodeRig): EndpointEntry | undefined => datapath.endpoints.get(HOST);

test('a machine is who its cluster says its address is, and policies select it as a pod', async (t) => {
  const datapath = createMemoryDatapath();
  const rig = await openNodeRig(t, { datapath, hostEndpoint: 'machine' });
  await publishAlpha(rig.alpha);
  // A node of the machine's name is somebody else.
  await rig.alpha.removeNode('n1');
  await rig.alpha.node('n1', '192.0.2.9');
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  await until('it is there', () => hostOf(rig) !== undefined);
  t.match(hostOf(rig), { identity: 5, ingressEnforced: true, addresses: [], ifindex: 0 });
  t.notOk(
    ipcacheText(datapath).some((row) => row.startsWith('192.0.2.1/32')),
    'nobody says that its address is a node',
  );
  t.ok(ipcacheText(datapath).includes('192.0.2.9/32 6 - 1'));

  await rig.alpha.identity(264, { app: 'db' });
  await rig.alpha.ip('192.0.2.1', { host: '192.0.2.1', local: 264, pod: 'db-1' });
  await until('it is known', () => hostOf(rig)?.identity === MACHINE);
  t.match(hostOf(rig), { ingressEnforced: false, egressEnforced: false });
  t.ok(ipcacheText(datapath).includes(`192.0.2.1/32 ${MACHINE} - 1`), 'without a tunnel');

  const selector = { matchLabels: { app: 'db' } };
  const fromEndpoints = [{ matchLabels: { app: 'client' } }];
  await rig.alpha.policy('p', { endpointSelector: selector, ingress: [{ fromEndpoints }] });
  await until('it is closed', () => hostOf(rig)?.ingressEnforced === true);
  t.same(policyText(datapath), [`${HOST} ${CLIENT} 0/0`]);

  await rig.stop();
  t.match(hostOf(rig), { ingressEnforced: true }, 'as long as no agent is there');
  const writes = datapath.log.length;
  await rig.start();
  await until('read again', async () => (await rig.status()).endpoints[0]?.policies.length === 1);
  t.notOk(
    datapath.log.slice(writes).some(({ kind, key }) => kind === 'delete' && key === HOST),
    'nor is it opened by a restart',
  );
  t.match(hostOf(rig), { identity: MACHINE, ingressEnforced: true });
  t.same(policyText(datapath), [`${HOST} ${CLIENT} 0/0`]);

  await rig.alpha.removePolicy('p');
  await until('it is open', () => hostOf(rig)?.ingressEnforced === false);
  t.same(policyText(datapath), []);
});

test('people see a machine as the endpoint host, with the address of its own', async (t) => {
  const rig = await openNodeRig(t, { hostEndpoint: 'machine' });
  await publishAlpha(rig.alpha);
  await rig.alpha.removeNode('n1');
  await rig.alpha.identity(264, { app: 'db' });
  await rig.alpha.ip('192.0.2.1', { host: '192.0.2.1', local: 264, pod: 'db-1' });
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  await until('it is known', () => hostOf(rig)?.identity === MACHINE);
  const { endpoints, ready } = await rig.status();
  t.match(endpoints, [{ pod: 'host', addresses: ['192.0.2.1'], identity: MACHINE }]);
  t.equal(endpoints.length, 1, 'it has no pods');
  t.equal(ready, true, 'no Node of its own is waited for');
});

test('a node is an endpoint as long as policies select it by its labels', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.node('n1', '192.0.2.1', { role: 'edge' });
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  t.equal(hostOf(rig), undefined);
  t.strictSame((await rig.status()).endpoints, [], 'nobody sees one');
  const fromEndpoints = [
    { matchLabels: { app: 'client', 'k8s:io.kubernetes.pod.namespace': 'demo' } },
  ];
  const spec = (role: string) => ({
    nodeSelector: { matchLabels: { role } },
    ingress: [{ fromEndpoints }],
  });
  await rig.alpha.policy('other', spec('core'), CLUSTERWIDE);
  await rig.alpha.policy('edge', spec('edge'), CLUSTERWIDE);
  await until('it is closed', () => hostOf(rig)?.ingressEnforced === true);
  t.match(hostOf(rig), { identity: 1, egressEnforced: false, addresses: [] });
  t.same(policyText(rig.datapath), [`${HOST} ${CLIENT} 0/0`]);
  t.ok(ipcacheText(rig.datapath).includes('192.0.2.1/32 1 - 0'), 'it stays the host');
  const { policies } = await rig.status();
  t.match(
    policies.find(({ policy }) => policy.endsWith(' edge')),
    { state: 'enforced', problems: [], endpoints: [HOST_ENDPOINT_ID], entries: 1 },
  );

  const [{ endpoints }, policy] = [await rig.status(), await ask(rig, 'host')];
  t.match(endpoints, [
    { pod: 'host', identity: 1, labels: [/policy\.cluster=alpha/, 'k8s:role=edge'] },
  ]);
  t.match(policy, [{ pod: 'host', ingressEnforced: true, policies: [/ edge$/] }]);
  t.strictSame(await ask(rig, '192.0.2.1'), policy);

  await rig.alpha.removeNode('n1');
  await rig.alpha.node('n2', '192.0.2.2', { role: 'core' });
  t.equal(hostOf(rig)?.ingressEnforced, true, 'a record that is gone opens nothing');
  await rig.alpha.node('n1', '192.0.2.1', { role: 'spare' });
  await until('it is nobody any more', () => hostOf(rig) === undefined);
  t.same(policyText(rig.datapath), []);
  t.strictSame((await rig.status()).endpoints, []);
});

test('a restart takes a host policy over as it is', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.policy(
    'all',
    { nodeSelector: {}, ingress: [{ fromEntities: ['remote-node'] }], egress: [{}] },
    CLUSTERWIDE,
  );
  await rig.alpha.node('n1', '192.0.2.1', { role: 'edge' });
  await rig.alpha.marked();
  await rig.start();
  await until('it is closed', () => hostOf(rig)?.ingressEnforced === true);
  await rig.stop();
  const writes = rig.datapath.log.length;
  await rig.start();
  await rig.ready('alpha');
  await until('read again', async () => (await rig.status()).policies[0]?.endpoints.length === 1);
  t.strictSame(
    rig.datapath.log.slice(writes).filter(({ key }) => key === HOST),
    [],
  );
});

async function ask({ socketPath }: NodeRig, endpoint: string): Promise<unknown> {
  const path = `/v1/policies/endpoints?endpoint=${endpoint}`;
  const { status, body } = await callAgent(socketPath, { path });
  if (status !== 200) throw new Error(body);
  return JSON.parse(body);
}
