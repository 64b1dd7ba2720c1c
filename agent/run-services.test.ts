import { test } from 'tap';
import { until } from '../mesh/remote/testing/until.ts';
import { parseIpAddress } from '../mesh/wire/ip.ts';
import { nodeKey } from '../mesh/wire/keys.ts';
import type { LocalService } from '../mesh/wire/local-service.ts';
import { decodeNode, encodeNode } from '../mesh/wire/node.ts';
import { decideServices, type ServiceWishes } from './merge/service-rules.ts';
import type { MemoryDatapath } from './state/memory-datapath.ts';
import { type NodeRig, openNodeRig } from './testing/node-rig.ts';
import { backendText, publishAlpha } from './testing/two-clusters.ts';

const WISHES: ServiceWishes = {
  services: undefined,
  kubeProxyReplacement: false,
  algorithm: 'random',
};
const FOUND = 'process 7 is a kube-proxy';

const rowsOf = ({ datapath }: NodeRig<MemoryDatapath>): string[] =>
  datapath.services
    .rows()
    .map(({ address, port, scope }) => `${address}:${port} ${scope}`)
    .sort();

test('beside a kube-proxy only global Services are translated, and status says why', async (t) => {
  const rig = await openNodeRig(t, { decideServices: async () => decideServices(WISHES, FOUND) });
  await publishAlpha(rig.alpha);
  await rig.alpha.localService('plain', {
    global: false,
    clusterIps: [parseIpAddress('10.96.0.11')],
  });
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  await until('the global one is there', () => rowsOf(rig).length > 0);
  t.same(rowsOf(rig), ['10.96.0.10:80 internal']);
  const { services, notes } = await rig.status();
  t.same(services, {
    local: 2,
    global: 1,
    translated: `global (the others are left to kube-proxy: ${FOUND})`,
    scope: 'global',
    kubeProxyReplacement: false,
  });
  t.same(notes, []);
});

test('without kube-proxy node ports are there, and what is left of one is a problem', async (t) => {
  const wishes = { ...WISHES, kubeProxyReplacement: true };
  const rig = await openNodeRig(t, { decideServices: async () => decideServices(wishes, FOUND) });
  const nodePort: Partial<LocalService> = {
    type: 'NodePort',
    externalTrafficPolicy: 'Local',
    ports: [{ name: 'http', protocol: 'TCP', port: 80, nodePort: 30080 }],
  };
  await publishAlpha(rig.alpha);
  await rig.alpha.localService('web', nodePort);
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  await until('all rows are there', () => rowsOf(rig).length === 3);
  t.same(rowsOf(rig), [
    '10.96.0.10:80 internal',
    '192.0.2.1:30080 external',
    '192.0.2.1:30080 internal',
  ]);
  t.match((await rig.status()).notes, [/^--kube-proxy-replacement is given, but process 7/]);
});

test('the zone of this node is read from its Node, and decides who is near', async (t) => {
  const rig = await openNodeRig(t);
  const near = parseIpAddress('10.1.0.5');
  const far = parseIpAddress('10.1.1.5');
  const http = new Map([['http', { protocol: 'TCP', port: 8080 } as const]]);
  const place = (zone: string) => ({ node: '', zone, forZones: [zone], forNodes: [] });
  await publishAlpha(rig.alpha);
  await rig.alpha.localService('web', {
    backends: new Map([
      [near, http],
      [far, http],
    ]),
    places: new Map([
      [near, place('za')],
      [far, place('zb')],
    ]),
  });
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  await until('both are there', () => backendText(rig.datapath).length === 2);
  const label = async (node: string, zone: string): Promise<void> => {
    const key = nodeKey(rig.alpha.name, node);
    const record = decodeNode((await rig.alpha.store.get(key))?.value ?? '', key);
    const labels = { 'topology.kubernetes.io/zone': zone };
    await rig.alpha.store.put(key, encodeNode({ ...record, labels }));
  };
  await label('n2', 'zb');
  await label('n1', 'za');
  await until('the near one is left', () => backendText(rig.datapath).length === 1);
  t.same(backendText(rig.datapath), ['10.1.0.5:8080@1']);
  await label('n1', 'zb');
  await until('the other one is near', () => backendText(rig.datapath)[0] === '10.1.1.5:8080@1');
  t.same(backendText(rig.datapath), ['10.1.1.5:8080@1']);
});
