import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { openTestCgroup } from './testing/cgroup.ts';
import type { DatapathAnswer } from './testing/datapath-process.ts';
import {
  addPodLink,
  HOST_INTERFACE,
  openDatapathProcess,
  openTestNodes,
  runIn,
  type TestNode,
} from './testing/nodes.ts';
import { testPolicy, testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();

/** What the node knows of the other node's pod: IPv4 over the IPv4 underlay, IPv6 over the IPv6 one. */
function knowledgeOf(other: TestNode) {
  const clusterId = other.number;
  return [
    testPrefix(`192.0.2.${clusterId}/32`, 6, { clusterId }),
    testPrefix(`fd00::${clusterId}/128`, 6, { clusterId }),
    testPrefix(`${other.podIp}/32`, other.identity, {
      tunnelEndpoint: `192.0.2.${clusterId}`,
      clusterId,
    }),
    testPrefix(`${other.podIp6}/128`, other.identity, {
      tunnelEndpoint: `fd00::${clusterId}`,
      clusterId,
    }),
  ];
}

function counter(answer: DatapathAnswer, name: string): number {
  if ('error' in answer) throw new Error(answer.error);
  return answer.counters[name] ?? 0;
}

const ping = (address: string, count = 1): string[] => [
  'ping',
  '-c',
  String(count),
  '-i',
  '0.01',
  '-W',
  '1',
  address,
];

test('openDatapath(): packets between two nodes', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  await using first = await openDatapathProcess(one);
  await using second = await openDatapathProcess(two);
  t.match(
    first.opened,
    { tunnelMtu: 1430, counters: {} },
    'the MTU leaves room for IPv6 around it',
  );

  await first.request({
    attach: [HOST_INTERFACE],
    endpoints: [one.endpoint()],
    ipcache: knowledgeOf(two),
  });
  await second.request({
    attach: [HOST_INTERFACE],
    endpoints: [two.endpoint({ ingressEnforced: true })],
    ipcache: knowledgeOf(one),
  });

  t.not((await runIn(one.podNamespace, ping(two.podIp))).code, 0, 'nothing allows it');
  t.ok(counter(await second.request({}), 'policy-denied ingress') >= 1);
  t.equal((await runIn(two.namespace, ping(two.podIp))).code, 0, 'its own node always reaches it');

  const allow = testPolicy(7, one.identity);
  await second.request({ policy: [allow] });
  t.equal((await runIn(one.podNamespace, ping(two.podIp, 5))).code, 0, 'IPv4, allowed by identity');
  t.equal((await runIn(one.podNamespace, ping(two.podIp6, 5))).code, 0, 'IPv6 over IPv6');
  t.equal(
    (await runIn(one.podNamespace, [...ping(two.podIp), '-s', '1402', '-M', 'do'])).code,
    0,
    'as large as the MTU',
  );
  t.equal(
    (await runIn(one.podNamespace, [...ping(two.podIp), '-s', '4000'])).code,
    0,
    'in fragments',
  );
  t.equal(
    (await runIn(two.podNamespace, ping(one.podIp))).code,
    0,
    'the other way: answers need no rule',
  );

  await second.request({ policyDeletes: [allow], policy: [testPolicy(7, one.identity + 1)] });
  t.not((await runIn(one.podNamespace, ping(two.podIp))).code, 0, 'another identity is allowed');
});

test('openDatapath(): the datapath outlives its process', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  for (const [node, other] of [
    [one, two],
    [two, one],
  ] as const) {
    const agent = await openDatapathProcess(node);
    await agent.request({
      attach: [HOST_INTERFACE],
      endpoints: [node.endpoint()],
      ipcache: knowledgeOf(other),
    });
    await agent.kill();
  }
  const flood = runIn(one.podNamespace, [
    'ping',
    '-c',
    '400',
    '-i',
    '0.002',
    '-W',
    '1',
    '-q',
    two.podIp,
  ]);
  let restarts = 0;
  let isDone = false;
  void flood.then(() => {
    isDone = true;
  });
  while (!isDone) {
    await using agent = await openDatapathProcess(two);
    if ('error' in agent.opened) throw new Error(agent.opened.error);
    t.equal(agent.opened.endpoints.length, 1, 'it finds what the one before has left');
    t.equal(agent.opened.ipcache.length, 4);
    await agent.request({ attach: [HOST_INTERFACE] });
    restarts += 1;
  }
  t.match(
    (await flood).output,
    / 400 received, 0% packet loss/,
    `none lost in ${restarts} restarts`,
  );
});

test('openDatapath(): an interface that was made anew is attached again', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one] = lab.nodes;
  await using agent = await openDatapathProcess(one);
  await agent.request({ attach: [HOST_INTERFACE], endpoints: [one.endpoint()] });
  const links = join(one.options.bpfRoot, 'isthmus/links');
  t.ok(readdirSync(links).includes('endpoint-pod%2e0-from'));

  execFileSync('ip', ['-n', one.namespace, 'link', 'delete', 'dev', HOST_INTERFACE]);
  t.match(await agent.request({ attach: [HOST_INTERFACE] }), {
    code: 'no-interface',
    error: /pod\.0: it does not exist/,
  });
  addPodLink(one);
  await agent.request({ attach: [HOST_INTERFACE], endpoints: [one.endpoint()] });
  t.equal((await runIn(one.namespace, ping(one.podIp))).code, 0);
  t.ok(counter(await agent.request({}), 'forwarded ingress') >= 1, 'packets pass the programs');

  await agent.request({ detach: [HOST_INTERFACE, HOST_INTERFACE, 'never-there'] });
  t.notOk(readdirSync(links).some((name) => name.startsWith('endpoint-')));
  const before = counter(await agent.request({}), 'forwarded ingress');
  t.equal((await runIn(one.namespace, ping(one.podIp))).code, 0);
  t.equal(counter(await agent.request({}), 'forwarded ingress'), before, 'no program sees them');
});

test('openDatapath(): uninstall leaves nothing', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one] = lab.nodes;
  await using agent = await openDatapathProcess(one);
  await agent.request({ attach: [HOST_INTERFACE], endpoints: [one.endpoint()] });
  await agent.request({ uninstall: true });
  t.notOk(existsSync(join(one.options.bpfRoot, 'isthmus')));
  const links = await runIn(one.namespace, ['ip', '-json', 'link', 'show']);
  t.notMatch(links.output, 'isthmus_vxlan');
  t.equal((await runIn(one.namespace, ping(one.podIp))).code, 0, 'the pod is reached as before');
});

test('openDatapath(): what is wrong is said, and nothing harmed', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  const open = async (options: Partial<TestNode['options']>): Promise<DatapathAnswer> => {
    await using agent = await openDatapathProcess(one, options);
    return agent.opened;
  };
  t.match(await open({ bpfRoot: '/tmp' }), {
    code: 'preflight',
    error:
      '/tmp is not in a bpf file system: run "mkdir -p /tmp && mount -t bpf bpf /tmp", or set --bpf-root',
  });
  t.match(await open({ cgroupRoot: '/tmp' }), {
    code: 'preflight',
    error: /is not a cgroup v2 folder/,
  });
  t.match(await open({ objectDir: '/nonexistent' }), { code: 'preflight', error: /npm run build/ });
  t.match(await open({ nodeIps: [parseIpAddress('192.0.2.99')] }), {
    code: 'bad-option',
    error: /192\.0\.2\.99: no interface of this node has it/,
  });
  const inNode = ['-n', one.namespace, 'link'];
  t.match(await open({ tunnelDevice: 'underlay' }), {
    code: 'device-failed',
    error: /underlay: an interface of kind veth has that name/,
  });

  const flannel = [
    'add',
    'flannel.1',
    'type',
    'vxlan',
    'id',
    '1',
    'dstport',
    '8472',
    'dev',
    'underlay',
  ];
  execFileSync('ip', [...inNode, ...flannel]);
  t.match(await open({}), {
    code: 'port-taken',
    error:
      /UDP port 8472 for isthmus_vxlan: VXLAN device flannel\.1(?: of Flannel)? has it; set --tunnel-port/,
  });
  const other = await open({ tunnelPort: 8473 });
  t.notOk('error' in other, 'another port is fine beside it');
  execFileSync('ip', [...inNode, 'delete', 'dev', 'flannel.1']);
  t.notOk('error' in (await open({})), 'the device is made again with the wanted port');

  await using taken = await takePort(two, 8472);
  await using agent = await openDatapathProcess(two);
  t.match(
    agent.opened,
    { code: 'port-taken', error: /cannot use UDP port 8472 for isthmus_vxlan: .* has it/ },
    taken.what,
  );
  t.notMatch((await runIn(two.namespace, ['ip', 'link', 'show'])).output, 'isthmus_vxlan');
  {
    await using onOther = await openDatapathProcess(two, { tunnelPort: 8473 });
    t.notOk('error' in onOther.opened);
  }
  await using back = await openDatapathProcess(two);
  t.match(back.opened, { code: 'port-taken' }, 'a wrong new port');
  const show = ['ip', '-details', 'link', 'show', 'dev', 'isthmus_vxlan'];
  const { output } = await runIn(two.namespace, show);
  t.match(output, / dstport 8473 /, 'leaves the device with its port');
  t.match(output, /[<,]UP[,>]/, 'and up');
});

test('openDatapath(): a process at a time; one that died at its first start is no obstacle', {
  skip,
}, async (t) => {
  await using lab = await openTestNodes();
  const [one] = lab.nodes;
  for (const killAt of ['made', 'ready', 'overlay']) {
    await t.rejects(openDatapathProcess(one, { killAt }), { message: /ended/ });
  }
  await using first = await openDatapathProcess(one);
  t.notOk('error' in first.opened);
  await using second = await openDatapathProcess(one);
  t.match(second.opened, {
    code: 'already-running',
    error: new RegExp(
      `another agent runs here: process ${first.pid} holds .*isthmus: stop it first`,
    ),
  });
  t.match(await first.request({ attach: [HOST_INTERFACE] }), { detached: [] }, 'the first goes on');
  await first.kill();

  // Its cgroup was made anew, under the same name or another one.
  await using cgroup = openTestCgroup();
  await using third = await openDatapathProcess(one, { cgroupRoot: cgroup.path });
  t.match(third.opened, { detached: [] });
  const attached = execFileSync('bpftool', ['cgroup', 'show', cgroup.path], { encoding: 'utf8' });
  t.match(attached, /mesh_connect4/, 'the sockets of the new one are translated');
  t.same(
    execFileSync('bpftool', ['cgroup', 'show', one.cgroup.path], { encoding: 'utf8' }).trim(),
    '',
    'those of the old one are not',
  );
});

/** A program that has the UDP port in a node. */
async function takePort(node: TestNode, port: number) {
  const script = `const s=require('dgram').createSocket('udp4');s.bind(${port},()=>console.log('bound'))`;
  const child = spawn('nsenter', [
    `--net=/run/netns/${node.namespace}`,
    process.execPath,
    '-e',
    script,
  ]);
  await new Promise((resolve) => child.stdout.once('data', resolve));
  return {
    what: `a socket on port ${port}`,
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => child.once('close', resolve));
      child.kill();
      await closed;
    },
  };
}
