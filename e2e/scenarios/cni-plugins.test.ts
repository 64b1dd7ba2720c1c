/** clustermesh-cni behind the real plugins of the distribution: ptp and bridge with masquerade, host-local, portmap, loopback. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import { DISTRIBUTION_PLUGINS } from '../lab/cni.ts';
import { execute } from '../lab/command.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason, PLUGIN_FOLDER } from '../lab/preflight.ts';
import { startProcess } from '../lab/process.ts';
import { parseTopology } from '../lab/topology.ts';
import { askUdp, curl, openMesh, urlOf } from './mesh.ts';

const skip = labSkipReason(process.env);
const ECHO_MAIN = fileURLToPath(new URL('../lab/echo/main.js', import.meta.url));
const FAMILIES = [4, 6] as const;
const PORTS = [{ port: 8080 }, { port: 5353, protocol: 'UDP' }];

const topology = () =>
  parseTopology({
    clusters: [
      {
        name: 'alpha',
        id: 1,
        podCidrs: ['10.1.0.0/16', 'fd00:10:1::/48'],
        serviceCidrs: ['10.101.0.0/16'],
        nodes: ['alpha-1'],
        cni: { plugin: 'ptp', iptables: true, agentDown: 'open', agentDownTimeout: '0s' },
      },
      {
        name: 'beta',
        id: 2,
        podCidrs: ['10.2.0.0/16', 'fd00:10:2::/48'],
        serviceCidrs: ['10.102.0.0/16'],
        nodes: ['beta-1'],
        cni: { plugin: 'bridge', iptables: true, agentDown: 'wait', agentDownTimeout: '30s' },
      },
    ],
    pods: [
      {
        name: 'on-ptp',
        node: 'alpha-1',
        role: 'server',
        ports: [
          { port: 8080, hostPort: 18080 },
          { port: 5353, protocol: 'UDP' },
        ],
      },
      {
        name: 'on-bridge',
        node: 'beta-1',
        role: 'server',
        ports: [
          { port: 8080, hostPort: 18080 },
          { port: 5353, protocol: 'UDP' },
        ],
      },
      // As if they had been there before the mesh.
      { name: 'early-ptp', node: 'alpha-1', role: 'server', ports: PORTS, chained: false },
      { name: 'early-bridge', node: 'beta-1', role: 'server', ports: PORTS, chained: false },
    ],
  });

const namesOn = async (lab: Lab, node: string): Promise<string[]> =>
  (await lab.agent(node).status()).endpoints.map(({ pod }) => pod.replace('default/', '')).sort();

/**
 * Chains as kube-proxy makes them, at their worst: everything that pods send through the node's stack is marked to be
 * masqueraded, not only what is for services.
 */
async function addKubeProxyRules(lab: Lab, node: string): Promise<void> {
  for (const cidr of lab.node(node).podCidrs) {
    const input = [
      '*nat',
      ':KUBE-MARK-MASQ - [0:0]',
      ':KUBE-POSTROUTING - [0:0]',
      '-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000',
      '-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN',
      '-A KUBE-POSTROUTING -j MASQUERADE',
      `-A PREROUTING -s ${cidr} -j KUBE-MARK-MASQ`,
      '-A POSTROUTING -j KUBE-POSTROUTING',
      'COMMIT',
    ].join('\n');
    const program = cidr.includes(':') ? 'ip6tables-restore' : 'iptables-restore';
    const { code, stderr } = await lab.execOnNode(node, [program, '--noflush'], {
      input: `${input}\n`,
    });
    if (code !== 0) throw new Error(`${program} on ${node}: ${stderr}`);
  }
}

/** Calls one plugin for a pod as a runtime would, and returns its result. */
async function callPlugin(
  lab: Lab,
  podName: string,
  call: {
    readonly command?: 'ADD' | 'DEL';
    readonly ifName: string;
    readonly config: { readonly type: string; readonly prevResult?: unknown };
  },
): Promise<unknown> {
  const { command = 'ADD', ifName, config } = call;
  const pod = lab.pod(podName);
  const folder = config.type === 'clustermesh-cni' ? PLUGIN_FOLDER : DISTRIBUTION_PLUGINS;
  const { code, stdout } = await execute([join(folder, config.type)], {
    netns: lab.node(pod.node).namespace,
    input: JSON.stringify({ cniVersion: '1.0.0', name: `net-${ifName}`, ...config }),
    env: {
      CNI_COMMAND: command,
      CNI_CONTAINERID: podName,
      CNI_NETNS: `/run/netns/${pod.netns}`,
      CNI_IFNAME: ifName,
      CNI_PATH: DISTRIBUTION_PLUGINS,
    },
  });
  if (code !== 0) throw new Error(`${config.type} ${command} of ${podName}: ${stdout}`);
  return stdout.trim() === '' ? undefined : JSON.parse(stdout);
}

test('pods of real CNI plugins are in the mesh', { skip, timeout: 240_000 }, async (t) => {
  await using lab = await openMesh(topology());
  const pods = lab.pods();
  const peerOf = (name: string): string =>
    lab.pod(name).cluster === 'alpha' ? 'beta-1' : 'alpha-1';

  await t.test('pods that were there before are found', async (t) => {
    for (const [node, names] of [
      ['alpha-1', ['early-ptp', 'on-ptp']],
      ['beta-1', ['early-bridge', 'on-bridge']],
    ] as const) {
      await lab.waitFor(`the pods of ${node}`, async () => (await namesOn(lab, node)).length === 2);
      t.same(await namesOn(lab, node), names);
    }
    const { endpoints } = await lab.agent('beta-1').status();
    const early = endpoints.find(({ pod }) => pod === 'default/early-bridge');
    t.same([...(early?.addresses ?? [])].sort(), [...lab.pod('early-bridge').ips].sort());
    t.equal(early?.containerId, '', 'nobody told of it');
  });

  await t.test(
    "every pod reaches every other one, and is seen with its own address: neither the CNI's masquerade nor kube-proxy's rules touch the mesh",
    async (t) => {
      for (const { name } of lab.plan.nodes) await addKubeProxyRules(lab, name);
      for (const from of pods) {
        for (const to of pods.filter(({ cluster }) => cluster !== from.cluster)) {
          for (const family of FAMILIES) {
            const expected = `${to.name} ${from.ip(family)}`;
            const { stdout } = await curl(lab, from.name, urlOf(to.ip(family), 8080));
            t.equal(stdout, `${expected}\n`, `${from.name} to ${to.name}, IPv${family}`);
          }
        }
      }
      for (const family of FAMILIES) {
        const answer = await askUdp(lab, 'on-ptp', lab.pod('on-bridge').ip(family), 5353);
        t.equal(answer, `on-bridge ${lab.pod('on-ptp').ip(family)}`, `UDP over IPv${family}`);
      }
    },
  );

  await t.test('what leaves the mesh is masqueraded as before', async (t) => {
    for (const name of ['on-ptp', 'early-bridge']) {
      const peer = lab.node(peerOf(name));
      const own = lab.node(lab.pod(name).node);
      await using server = startProcess([process.execPath, ECHO_MAIN, 'outside', 'tcp:9000'], {
        netns: peer.namespace,
        cgroup: join(peer.cgroup, 'system'),
        log: join(peer.folder, 'outside.log'),
      });
      await lab.waitFor('the server outside', () => server.output().includes('ready'));
      for (const [index, address] of peer.addresses.entries()) {
        const { stdout } = await curl(lab, name, urlOf(address, 9000));
        t.equal(stdout, `outside ${own.addresses[index]}\n`, `${name} to ${address}`);
      }
    }
  });

  await t.test('host ports lead to pods', async (t) => {
    for (const name of ['on-ptp', 'on-bridge']) {
      const from = lab.node(peerOf(name));
      for (const [index, address] of lab.node(lab.pod(name).node).addresses.entries()) {
        const argv = ['curl', '--silent', '--max-time', '3', urlOf(address, 18_080)];
        const { stdout } = await lab.execOnNode(from.name, argv);
        t.equal(stdout, `${name} ${from.addresses[index]}\n`);
      }
    }
  });

  await t.test('the loopback plugin beside the chain', async (t) => {
    const { name } = lab.pod('on-bridge');
    await callPlugin(lab, name, { ifName: 'lo', config: { type: 'loopback' } });
    t.equal((await curl(lab, name, 'http://127.0.0.1:8080/')).stdout, `${name} 127.0.0.1\n`);
  });

  await t.test('a second interface with several addresses is an endpoint of its own', async (t) => {
    const name = 'on-bridge';
    const node = lab.node('beta-1');
    const subnets = ['10.99.0.0/24', '10.99.1.0/24', 'fd00:99::/64'];
    const ptp = {
      type: 'ptp',
      ipam: {
        type: 'host-local',
        dataDir: join(node.folder, 'cni', 'second'),
        ranges: subnets.map((subnet) => [{ subnet }]),
      },
    };
    const ours = { type: 'clustermesh-cni', socketPath: node.socketPath };
    const prevResult = await callPlugin(lab, name, { ifName: 'net1', config: ptp });
    const result = await callPlugin(lab, name, { ifName: 'net1', config: { ...ours, prevResult } });
    t.same(result, prevResult, 'the result is passed on');
    const addresses = ['10.99.0.2', '10.99.1.2', 'fd00:99::2'];
    const containers = async () =>
      (await lab.agent('beta-1').status()).endpoints.filter(
        ({ containerId }) => containerId === name,
      );
    t.same(
      (await containers()).map((endpoint) => [...endpoint.addresses].sort()),
      [[...lab.pod(name).ips].sort(), addresses],
    );
    for (const address of addresses) {
      const argv = ['curl', '--silent', '--max-time', '3', urlOf(address, 8080)];
      t.match((await lab.execOnNode('beta-1', argv)).stdout, /^on-bridge /, address);
    }
    for (const config of [{ ...ours, prevResult }, ptp]) {
      await callPlugin(lab, name, { command: 'DEL', ifName: 'net1', config });
    }
    t.equal((await containers()).length, 1, 'the first one stays');
    const from = lab.pod('on-ptp');
    const { stdout } = await curl(lab, 'on-ptp', urlOf(lab.pod(name).ip(), 8080));
    t.equal(stdout, `on-bridge ${from.ip()}\n`);
  });

  await t.test('a pod that goes without DEL of ours takes its endpoint with it', async (t) => {
    await lab.removePod('early-ptp');
    await lab.waitFor(
      'it to be gone',
      async () => !(await namesOn(lab, 'alpha-1')).includes('early-ptp'),
    );
    t.same(await namesOn(lab, 'alpha-1'), ['on-ptp']);
  });

  await t.test(
    'open: a pod starts without an agent, by its CNI alone, and is taken over',
    async (t) => {
      const { socketPath } = lab.node('alpha-1');
      await lab.agent('alpha-1').kill();
      const pod = await lab.addPod({ name: 'opened', node: 'alpha-1' });
      t.match(readdirSync(`${socketPath}.opened`), [/^opened:eth0$/]);
      const near = await curl(lab, 'opened', urlOf(lab.pod('on-ptp').ip(), 8080));
      t.match(near.stdout, /^on-ptp /, 'its CNI works');
      await lab.agent('alpha-1').start();
      await lab.waitFor('it to be taken over', async () =>
        (await namesOn(lab, 'alpha-1')).includes('opened'),
      );
      t.same(readdirSync(`${socketPath}.opened`), []);
      for (const family of FAMILIES) {
        const stdout = await lab.waitFor('its traffic in the mesh', async () => {
          const answer = await curl(lab, 'opened', urlOf(lab.pod('on-bridge').ip(family), 8080));
          return answer.stdout !== '' && answer.stdout;
        });
        t.equal(stdout, `on-bridge ${pod.ip(family)}\n`);
      }
      // Along the whole chain; portmap's own CHECK fails for a pod of both families that has host ports.
      await lab.checkPod('opened');
    },
  );

  await t.test('wait: pods that are started without an agent wait for it', async (t) => {
    await lab.agent('beta-1').kill();
    const adding = lab.addPod({ name: 'waited', node: 'beta-1' });
    // DEL needs no agent.
    await lab.removePod('early-bridge');
    await lab.agent('beta-1').start();
    await adding;
    t.same(await namesOn(lab, 'beta-1'), ['on-bridge', 'waited'], 'it has caught up with DEL, too');
    const stdout = await lab.waitFor('its traffic in the mesh', async () => {
      const answer = await curl(lab, 'waited', urlOf(lab.pod('on-ptp').ip(), 8080));
      return answer.stdout !== '' && answer.stdout;
    });
    t.equal(stdout, `on-ptp ${lab.pod('waited').ip()}\n`);
    await lab.checkPod('waited');
    await lab.removePod('waited');
    t.same(await namesOn(lab, 'beta-1'), ['on-bridge']);
  });

  if (process.env.ISTHMUS_LONG !== 'true') return;
  await t.test('a hundred pods that are started and ended together', async (t) => {
    const before = await namesOn(lab, 'alpha-1');
    const names = Array.from({ length: 100 }, (_, index) => `many-${index}`);
    await Promise.all(names.map((name) => lab.addPod({ name, node: 'alpha-1' })));
    const { endpoints } = await lab.agent('alpha-1').status();
    t.equal(endpoints.length, before.length + names.length);
    t.equal(new Set(endpoints.map(({ endpointId }) => endpointId)).size, endpoints.length);
    for (const name of ['many-0', 'many-99']) {
      const { stdout } = await curl(lab, name, urlOf(lab.pod('on-bridge').ip(), 8080));
      t.equal(stdout, `on-bridge ${lab.pod(name).ip()}\n`);
    }
    await Promise.all(names.map((name) => lab.removePod(name)));
    t.same(await namesOn(lab, 'alpha-1'), before);
  });
});
