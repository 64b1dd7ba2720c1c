import { readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { createMemoryDatapath } from '../state/memory-datapath.ts';
import { addRequest, type NodeRig, openNodeRig } from '../testing/node-rig.ts';

const ids = (rig: NodeRig): number[] =>
  rig.datapath.endpoints
    .rows()
    .map(({ endpointId }) => endpointId)
    .sort();

test('ADD makes an endpoint in the kernel and on disk, and leaves the result to the plugin', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  t.same(await rig.addPod('a', '10.1.0.5'), { status: 200, body: '' });
  t.match(rig.datapath.endpoints.get('1'), {
    addresses: ['10.1.0.5'],
    ifindex: 101,
    hostInterface: 'vetha',
    mac: '02:00:00:00:00:01',
  });
  t.ok(rig.datapath.attached.has('vetha'));
  t.same(readdirSync(rig.dir.file('state', 'endpoints')), ['1.json']);
  t.match((await rig.status()).endpoints, [
    { endpointId: 1, pod: 'demo/a', addresses: ['10.1.0.5'] },
  ]);
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200, 'again is the same endpoint');
  t.same(ids(rig), [1]);
});

test('DEL removes all traces, and succeeds for what is not there', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  for (let round = 0; round < 2; round += 1) {
    t.same(await rig.cni(addRequest('a', '10.1.0.5', 'DEL')), { status: 200, body: '' });
  }
  t.same(ids(rig), []);
  t.equal(rig.datapath.attached.size, 0);
  t.same(readdirSync(rig.dir.file('state', 'endpoints')), []);
  await rig.addPod('b', '10.1.0.5');
  t.same(ids(rig), [2], 'a number is not given again soon');
});

test('CHECK finds what is missing', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  const check = (ip = '10.1.0.5') => rig.cni(addRequest('a', ip, 'CHECK'));
  t.match(JSON.parse((await check()).body), { code: 100, msg: /has no endpoint for eth0/ });
  await rig.addPod('a', '10.1.0.5');
  t.same(await check(), { status: 200, body: '' });
  t.match(JSON.parse((await check('10.1.0.6')).body), {
    msg: /has addresses 10\.1\.0\.5, the runtime says 10\.1\.0\.6/,
  });
  rig.datapath.endpoints.apply({ upserts: [], deletes: [{ endpointId: 1, addresses: [] }] });
  t.match(JSON.parse((await check()).body), { msg: /not in the kernel's map/ });
  rig.veths.clear();
  t.match(JSON.parse((await check()).body), {
    cniVersion: '1.0.0',
    code: 100,
    msg: /interface vetha .* is gone/,
  });
});

test('GC removes what the runtime no longer lists, of that network only', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  for (const [name, ip] of [
    ['a', '10.1.0.5'],
    ['b', '10.1.0.6'],
  ] as const)
    await rig.addPod(name, ip);
  const gc = (name: string, attachments: unknown) =>
    rig.cni({
      command: 'GC',
      containerId: '',
      netns: '',
      ifName: '',
      args: '',
      path: '',
      config: { cniVersion: '1.1.0', name, 'cni.dev/valid-attachments': attachments },
    });
  t.equal((await gc('another', [])).status, 200);
  t.same(ids(rig), [1, 2]);
  t.equal((await gc('lab', [{ containerID: 'b', ifname: 'eth0' }])).status, 200);
  t.same(ids(rig), [2]);
  t.match(JSON.parse((await gc('lab', undefined)).body), {
    code: 7,
    msg: /would remove everything/,
  });
  t.same(ids(rig), [2]);
});

test('an address that a living container has is refused to another, that of a dead one is taken over', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  t.match(JSON.parse((await rig.addPod('b', '10.1.0.5')).body), {
    code: 100,
    msg: /belongs to endpoint 1 \(container a\) already/,
  });
  t.same(ids(rig), [1]);
  rig.veths.delete('/run/netns/a');
  t.equal((await rig.addPod('b', '10.1.0.5')).status, 200);
  t.equal(rig.datapath.endpoints.get('1'), undefined);
  t.same(readdirSync(rig.dir.file('state', 'endpoints')).length, 1);
});

test('an ADD that the kernel refuses fails, and leaves nothing', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  rig.datapath.endpoints.refuse = () => true;
  const { status, body } = await rig.addPod('a', '10.1.0.5');
  t.equal(status, 500);
  t.match(JSON.parse(body), {
    code: 101,
    msg: /cannot make endpoint 1 of eth0: cannot write endpoints 1/,
  });
  rig.datapath.endpoints.refuse = undefined;
  t.same(ids(rig), []);
  t.same(readdirSync(rig.dir.file('state', 'endpoints')), []);
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200);
});

test('an interface that is no veth is refused with what to do', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  t.match(JSON.parse((await rig.cni(addRequest('a', '10.1.0.5'))).body), {
    code: 7,
    msg: /is not one end of a veth pair/,
  });
});

test('a restarted agent takes up living endpoints under their numbers and drops the others', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  for (const [name, ip] of [
    ['a', '10.1.0.5'],
    ['b', '10.1.0.6'],
    ['c', '10.1.0.7'],
  ] as const)
    await rig.addPod(name, ip);
  await rig.stop();
  rig.veths.delete('/run/netns/b');
  rig.veths.set('/run/netns/c', { hostInterface: 'vethc', ifindex: 999, mac: '02:00:00:00:00:01' });
  const written = rig.datapath.log.length;
  await rig.start();
  await until('the dead are gone', () => ids(rig).join() === '1');
  t.notOk(
    rig.datapath.log.slice(written).some((entry) => 'table' in entry && entry.key === '1'),
    'the row of the living is not touched',
  );
  t.same(readdirSync(rig.dir.file('state', 'endpoints')), ['1.json']);
  await rig.addPod('d', '10.1.0.8');
  t.ok(rig.datapath.endpoints.get('4'), 'numbers of the dead are not given again at once');
});

test('an endpoint whose file cannot be read keeps its rows, and is shown', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  await rig.stop();
  await writeFile(rig.dir.file('state', 'endpoints', '1.json'), 'half');
  await rig.alpha.config();
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  t.match((await rig.status()).notes, [/1\.json: it is not JSON/]);
  t.same(ids(rig), [1]);
  await rig.addPod('b', '10.1.0.6');
  t.same(ids(rig), [1, 2], 'its number is not given to another');
});

test('pinned maps of an agent whose endpoints are all gone are emptied', async (t) => {
  const datapath = createMemoryDatapath();
  datapath.policy.apply({
    upserts: [
      {
        endpointId: 9,
        direction: 'ingress',
        identity: 0,
        protocol: 0,
        port: 0,
        portPrefixBits: 0,
        verdict: 'allow',
      },
    ],
    deletes: [],
  });
  const rig = await openNodeRig(t, { datapath });
  await rig.start();
  await until('the row is gone', () => datapath.policy.rows().length === 0);
});

test('STATUS tells what cuts pods off, and nothing else', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  const status = () => rig.cni(addRequest('', '10.1.0.5', 'STATUS'));
  t.equal((await rig.status()).ready, false);
  t.same(await status(), { status: 200, body: '' }, 'the apiserver may be a pod to be started');
  rig.datapath.detachedParts = ['nothing is attached to the tunnel device'];
  await until('it is seen', async () => (await status()).status !== 200);
  t.match(JSON.parse((await status()).body), {
    code: 51,
    msg: 'pods of this node may be cut off',
    details: 'nothing is attached to the tunnel device',
  });
});

test('a pod with several interfaces has an endpoint for each, and each its own addresses', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  const request = (ifName: string, ips: readonly string[], command = 'ADD') => {
    const base = addRequest('a', '10.1.0.5', command);
    const config = base.config as Record<string, unknown>;
    return {
      ...base,
      ifName,
      config: {
        ...config,
        prevResult: {
          interfaces: [{ name: 'host' }, { name: ifName, sandbox: '/run/netns/a' }],
          ips: ips.map((address) => ({ interface: 1, address })),
        },
      },
    };
  };
  const veth = (ifindex: number) => ({
    hostInterface: `veth${ifindex}`,
    ifindex,
    mac: '02:00:00:00:00:01',
  });
  rig.veths.set('/run/netns/a', veth(101));
  t.equal(
    (await rig.cni(request('eth0', ['10.1.0.5/24', 'fd00::5/64', '10.1.0.9/24']))).status,
    200,
  );
  rig.veths.set('/run/netns/a', veth(102));
  t.equal((await rig.cni(request('net1', ['10.9.0.5/24', 'fd09::5/64']))).status, 200);
  t.same(
    rig.datapath.endpoints.rows().map((row) => [row.endpointId, row.ifindex, row.addresses]),
    [
      [1, 101, ['10.1.0.5', '10.1.0.9', 'fd00::5']],
      [2, 102, ['10.9.0.5', 'fd09::5']],
    ],
  );
  t.equal((await rig.cni(request('net1', [], 'DEL'))).status, 200);
  t.same(ids(rig), [1], 'DEL of one leaves the other');
});

test('an interface that goes without DEL takes its endpoint with it', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  await rig.addPod('b', '10.1.0.6');
  rig.veths.delete('/run/netns/a');
  rig.changeLinks();
  await until('its endpoint is gone', () => ids(rig).join() === '2');
  t.same(readdirSync(rig.dir.file('state', 'endpoints')), ['2.json']);
  t.notOk(rig.datapath.attached.has('vetha'));
});
