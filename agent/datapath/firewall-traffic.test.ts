/** A host that is its own firewall, with real sockets: strangers, who is behind it, sessions from before, and its end. */
import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import { fixedCalls } from '../host-firewall/fixed-rules.ts';
import type { EndpointEntry } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { testHostRow } from './testing/host-row.ts';
import {
  answered,
  countersOf,
  type DatapathProcess,
  mustRunIn,
  openDatapathProcess,
  openTestNodes,
  runIn,
  type TestNode,
} from './testing/nodes.ts';
import { testPolicy, testPrefix } from './testing/program-run.ts';
import { openTrafficProcess } from './testing/service-rig.ts';

const skip = kernelSkipReason();
const WORLD = 2;
const MACHINE = 0x20000 + 900;
const [PORT, SSH] = [8080, 22];
const HOUR_MS = 3_600_000;
/** Nobody of a mesh: they live behind the other end of the underlay. */
const STRANGERS = { 4: '198.51.100.7', 6: '2001:db8::7' } as const;
const OWN = { 4: '192.0.2.2', 6: 'fd00::2' } as const;
const CLOSED = { ingressEnforced: true, egressEnforced: true };

test('a host that is its own firewall', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  await mustRunIn(
    one.namespace,
    'ip address add 198.51.100.7/32 dev lo; ip -6 address add 2001:db8::7/128 dev lo nodad',
  );
  // The pod of the second host is nobody's endpoint here: a container behind a host that hides it.
  await mustRunIn(
    two.namespace,
    `ip route add default via 192.0.2.1; ip -6 route add default via fd00::1
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    iptables -t nat -A POSTROUTING -s ${two.podIp} -o underlay -j MASQUERADE`,
  );
  let machine = await openMachine(two);
  await using outside = openTrafficProcess(one.namespace);
  await using host = openTrafficProcess(two.namespace);
  const strangers = Object.values(STRANGERS);
  for (const port of [PORT, SSH]) {
    await outside.request({ kind: 'serve', name: 'outside', addresses: strangers, port });
    const addresses = Object.values(OWN);
    await host.request({ kind: 'serve', name: 'machine', addresses, port });
  }
  const fixed = fixedCalls({ adminPorts: [SSH], servers: [], resolvers: [] });
  const switchOn = async (lastsMs = HOUR_MS): Promise<void> => {
    answered(await machine.request({ firewall: { open: fixed, lastsMs } }));
  };
  const switchOff = (): Promise<unknown> =>
    machine.request({ firewall: { open: [], lastsMs: 0 }, endpoints: [row({})] });

  /** Whether calls over TCP are answered, over IPv4 and IPv6, from outside or to there. */
  const both = (to: 'machine' | 'outside', port: number, seconds = 5): Promise<boolean[]> =>
    Promise.all(
      ([4, 6] as const).map((family) => {
        const [caller, address] =
          to === 'machine' ? [one.namespace, OWN[family]] : [two.namespace, STRANGERS[family]];
        return answers(caller, { to, address, port, seconds });
      }),
    );
  /** The same, where no answer is expected. */
  const shut = (to: 'machine' | 'outside', port: number): Promise<boolean[]> => both(to, port, 1);

  await t.test('each direction, over both families, and its end', async (t) => {
    await machine.request({ endpoints: [row(CLOSED)] });
    t.same(await both('machine', PORT), [true, true], 'in default mode strangers are let in');
    await switchOn();
    t.same(await shut('machine', PORT), [false, false], 'then they are not');
    t.same(await shut('outside', PORT), [false, false], 'nor are they called');
    t.same(await both('machine', SSH), [true, true], 'but for ssh');
    t.same(await shut('outside', SSH), [false, false], 'into the machine alone');
    t.equal(await pings(one.namespace, OWN[4], 1), false);
    const policy = (['ingress', 'egress'] as const).map((direction) =>
      testPolicy(HOST_ENDPOINT_ID, WORLD, {
        direction,
        protocol: 6,
        port: PORT,
        portPrefixBits: 16,
      }),
    );
    await machine.request({ policy });
    t.same(await both('machine', PORT), [true, true], 'a policy lets the world in');
    t.same(await both('outside', PORT), [true, true], 'and out');
    for (const family of [4, 6] as const) {
      const call = {
        call: `much${family}`,
        address: STRANGERS[family],
        port: PORT,
        bytes: 300_000,
      };
      t.match(await host.request({ kind: 'call', ...call }), { said: /^outside / });
      t.match(await host.request({ kind: 'finish', call: call.call }), { taken: 300_000 });
    }
    const counted = await countersOf(machine);
    t.ok((counted['policy-denied ingress'] ?? 0) > 0 && (counted['policy-denied egress'] ?? 0) > 0);
    await machine.request({ policyDeletes: policy });
    t.same(await shut('machine', PORT), [false, false], 'until it is gone');
    await switchOff();
    t.same(await both('machine', PORT), [true, true], 'off');
    const { output } = await runIn(two.namespace, [
      'ip',
      '-4',
      'neighbour',
      'show',
      'nud',
      'failed',
    ]);
    t.notMatch(output, /192\.0\.2\.1/, 'neighbours were found all along');
  });

  await t.test('a session from before goes on by the fixed list', async (t) => {
    await machine.request({ endpoints: [row(CLOSED)] });
    const session = { call: 'ssh', address: OWN[4], port: SSH, bytes: 100_000 };
    t.match(await outside.request({ kind: 'call', ...session }), { said: /^machine / });
    await switchOn();
    t.match(await outside.request({ kind: 'finish', call: 'ssh' }), { taken: 100_000 });
    await switchOff();
  });

  await t.test('what others send through the host under its address is theirs', async (t) => {
    await machine.request({ endpoints: [row(CLOSED)] });
    await switchOn();
    const to = { to: 'outside', address: STRANGERS[4], port: PORT };
    t.equal(await answers(two.podNamespace, to), true, 'TCP, and its answers');
    t.equal(await pings(two.podNamespace, STRANGERS[4]), true, 'a ping');
    const datagram = { call: 'udp', address: STRANGERS[4], port: PORT, bytes: 200 } as const;
    await using container = openTrafficProcess(two.podNamespace);
    t.match(await container.request({ kind: 'datagram', ...datagram }), { said: /^outside / });
    t.same(await shut('machine', PORT), [false, false], 'the host is as closed as before');
    await switchOff();
  });

  await t.test('an interface that comes later is judged once it was found', async (t) => {
    await machine.request({ endpoints: [row(CLOSED)] });
    await switchOn();
    await mustRunIn(
      one.namespace,
      `ip link add late type veth peer name late netns ${two.namespace}`,
    );
    for (const [{ namespace }, address] of [
      [one, '203.0.113.1'],
      [two, '203.0.113.2'],
    ] as const) {
      await mustRunIn(namespace, `ip address add ${address}/24 dev late; ip link set late up`);
    }
    const to = { to: 'machine', address: '203.0.113.2', port: PORT };
    t.equal(await answers(one.namespace, to), true, 'not yet');
    await switchOn();
    t.equal(await answers(one.namespace, { ...to, seconds: 1 }), false);
    await switchOff();
    t.equal(await answers(one.namespace, to), true, 'and no more');
  });

  await t.test(
    'its agent is killed: a trial ends without it, what is confirmed does not',
    async (t) => {
      await machine.request({ endpoints: [row(CLOSED)] });
      await switchOn(4000);
      await machine.kill();
      t.same(await shut('machine', PORT), [false, false], 'until its time is over');
      await until(
        'the end of the trial',
        async () => (await shut('machine', PORT)).every(Boolean),
        30_000,
      );
      machine = await openMachine(two, { firewall: { open: fixed } });
      await machine.kill();
      t.same(await shut('machine', PORT), [false, false], 'confirmed');
      t.same(await both('machine', SSH), [true, true]);
      machine = await openMachine(two);
      t.same(await both('machine', PORT), [true, true], 'the next agent says that it is none');
    },
  );

  await machine.request({ uninstall: true });
  await machine[Symbol.asyncDispose]();
});

/** Whether somebody answers with their name. */
async function answers(
  namespace: string,
  call: {
    readonly to: string;
    readonly address: string;
    readonly port: number;
    readonly seconds?: number;
  },
): Promise<boolean> {
  const { to, address, port, seconds = 5 } = call;
  const where = address.includes(':') ? `[${address}]` : address;
  const script = `(echo 0; sleep 0.2) | curl -sS --max-time ${seconds} telnet://${where}:${port}`;
  return (await runIn(namespace, ['sh', '-c', script])).output.startsWith(`${to} `);
}

async function pings(namespace: string, to: string, seconds = 5): Promise<boolean> {
  const wait = ['-W', String(seconds)];
  return (await runIn(namespace, ['ping', '-c', '1', ...wait, to])).code === 0;
}

/** The machine as the agent would write it. */
function row(fields: Partial<EndpointEntry>): EndpointEntry {
  return testHostRow(MACHINE, fields);
}

async function openMachine(
  machine: TestNode,
  options: Parameters<typeof openDatapathProcess>[1] = {},
): Promise<DatapathProcess> {
  const agent = await openDatapathProcess(machine, { hostEndpoint: 'machine', ...options });
  const clusterId = machine.number;
  answered(
    await agent.request({
      endpoints: [row(CLOSED)],
      ipcache: Object.values(OWN).map((address) =>
        testPrefix(`${address}/${address.includes(':') ? 128 : 32}`, MACHINE, { clusterId }),
      ),
    }),
  );
  return agent;
}
