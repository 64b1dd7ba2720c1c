/**
 * Path MTU discovery with real sockets: endpoints with an MTU of 1500 over an underlay of 1400, IPv4 and IPv6. Promise 20:
 * MTU set by us, not by hand.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { test } from 'tap';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { DatapathAnswer } from './testing/datapath-process.ts';
import {
  HOST_INTERFACE,
  openDatapathProcess,
  openTestNodes,
  runIn,
  type TestNode,
} from './testing/nodes.ts';
import { testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();
const UNDERLAY_MTU = 1400;
/** What is left beneath an IPv6 underlay, which is the larger one. */
const TUNNEL_MTU = 1330;
const PORT = 7000;
const TCP_BYTES = 400_000;
/** Larger than the tunnel takes, smaller than the endpoints' own MTU. */
const UDP_BYTES = 1400;

/** Gives everything back, over TCP and over UDP. */
const SERVER = `
const port = Number(process.argv[1]);
const tcp = require('net').createServer((socket) => { socket.on('error', () => {}); socket.pipe(socket); });
const udp = require('dgram').createSocket('udp6');
udp.on('error', () => {});
udp.on('message', (data, from) => udp.send(data, from.port, from.address));
udp.bind(port, '::', () => tcp.listen(port, '::', () => console.log('ready')));`;

/** Says how many bytes came back over TCP, and which of several datagrams came back whole. `order`: which of them first. */
const CLIENT = `
const [address, port, tcpBytes, udpBytes, order] = process.argv.slice(1);
const byTcp = () => new Promise((resolve) => {
  const tcp = require('net').connect({ host: address, port: Number(port) });
  let back = 0;
  tcp.on('connect', () => tcp.write(Buffer.alloc(Number(tcpBytes), 'x')));
  tcp.on('data', (data) => {
    back += data.length;
    if (back < Number(tcpBytes)) return;
    tcp.destroy();
    resolve({ back });
  });
});
const byUdp = () => new Promise((resolve) => {
  const udp = require('dgram').createSocket(address.includes(':') ? 'udp6' : 'udp4');
  const body = Buffer.alloc(Number(udpBytes), 'z');
  let sent = 0;
  let timer;
  const send = () => { sent += 1; udp.send(body, () => {}); timer = setTimeout(send, 100); };
  udp.on('error', () => {});
  udp.on('message', (data) => {
    clearTimeout(timer);
    udp.close();
    resolve({ sent, length: data.length });
  });
  udp.connect(Number(port), address, send);
});
(async () => {
  const [first, second] = order === 'tcp' ? [byTcp, byUdp] : [byUdp, byTcp];
  console.log(JSON.stringify({ ...(await first()), ...(await second()) }));
})();`;

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

test('path MTU discovery: TCP and UDP through a smaller underlay', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  for (const { namespace, podNamespace } of lab.nodes) {
    const set = ['link', 'set', 'dev'];
    await runIn(namespace, ['ip', ...set, 'underlay', 'mtu', String(UNDERLAY_MTU)]);
    await runIn(podNamespace, ['ip', ...set, 'eth0', 'mtu', '1500']);
  }
  {
    await using given = await openDatapathProcess(one, { underlayMtu: 1360 });
    t.match(given.opened, { tunnelMtu: 1290 }, 'an MTU that was given counts');
  }
  await using first = await openDatapathProcess(one);
  await using second = await openDatapathProcess(two);
  for (const [agent, node, other] of [
    [first, one, two],
    [second, two, one],
  ] as const) {
    t.match(agent.opened, { tunnelMtu: TUNNEL_MTU }, 'the agent sees the smaller MTU');
    await agent.request({
      attach: [HOST_INTERFACE],
      endpoints: [node.endpoint({ ingressEnforced: node === one })],
      ipcache: knowledgeOf(other),
      upkeep: true,
    });
  }
  await using _server = await openServer(two.podNamespace);

  for (const [address, order] of [
    [two.podIp, 'tcp'],
    [two.podIp6, 'udp'],
  ] as const) {
    const arguments_ = [address, PORT, TCP_BYTES, UDP_BYTES, order].map(String);
    const client = [process.execPath, '-e', CLIENT, ...arguments_];
    const { output } = await runIn(one.podNamespace, client);
    const { back, sent, length } = JSON.parse(output);
    t.equal(back, TCP_BYTES, `${address}: TCP comes and goes`);
    t.equal(length, UDP_BYTES, `${address}: UDP, too`);
    // What TCP has learnt UDP knows: else the first one each way tells what fits.
    t.ok(order === 'tcp' ? sent === 1 : sent >= 2, `at datagram ${sent}`);
    for (const [namespace, to] of [
      [one.podNamespace, address],
      [two.podNamespace, address === two.podIp ? one.podIp : one.podIp6],
    ] as const) {
      const route = (await runIn(namespace, ['ip', 'route', 'get', to])).output;
      t.match(route, new RegExp(`mtu ${TUNNEL_MTU}\\b`), 'the endpoint has learnt what fits');
    }
  }
  t.match(
    (
      await runIn(one.podNamespace, [
        'ping',
        '-c',
        '1',
        '-W',
        '1',
        '-M',
        'do',
        '-s',
        '1350',
        two.podIp,
      ])
    ).output,
    new RegExp(`mtu ?= ?${TUNNEL_MTU}`),
    'as whoever looks is told',
  );
  for (const agent of [first, second]) {
    const answer = await agent.request({});
    t.ok(counter(answer, 'packet-too-big egress') >= 2, 'one answer a family and more');
  }
  // Two families, there and back: without segmentation offload each node would see each segment.
  const packets = counter(await first.request({}), 'forwarded-overlay egress');
  t.ok(packets < (2 * TCP_BYTES) / TUNNEL_MTU, `segments travel together: ${packets} packets`);
  for (const { namespace } of lab.nodes) {
    t.equal(await fragments(namespace), 0, 'no node had to fragment the outer packets');
  }
  let answer = await first.request({});
  while (!('error' in answer) && answer.upkeep?.largerMtus.length === 0) {
    answer = await first.request({});
  }
  t.match(
    answer,
    {
      upkeep: { tunnelMtu: TUNNEL_MTU, largerMtus: [{ hostInterface: HOST_INTERFACE, mtu: 1500 }] },
    },
    'and the agent says who relies on it',
  );
});

function counter(answer: DatapathAnswer, name: string): number {
  if ('error' in answer) throw new Error(answer.error);
  return answer.counters[name] ?? 0;
}

/** Fragments that a namespace has made of packets, IPv4 and IPv6. */
async function fragments(namespace: string): Promise<number> {
  const ipv4 = (await runIn(namespace, ['cat', '/proc/net/snmp'])).output.split('\n');
  const [names = [], values = []] = ipv4
    .filter((line) => line.startsWith('Ip:'))
    .map((line) => line.split(' '));
  const ipv6 = (await runIn(namespace, ['cat', '/proc/net/snmp6'])).output;
  const made6 = /^Ip6FragCreates\s+(\d+)/m.exec(ipv6)?.[1];
  return Number(values[names.indexOf('FragCreates')]) + Number(made6);
}

async function openServer(namespace: string): Promise<AsyncDisposable> {
  const command = [`--net=/run/netns/${namespace}`, process.execPath, '-e', SERVER, String(PORT)];
  const child = spawn('nsenter', command, { stdio: ['ignore', 'pipe', 'inherit'] });
  const closed = new Promise((resolve) => child.on('close', resolve));
  await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next();
  return {
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await closed;
    },
  };
}
