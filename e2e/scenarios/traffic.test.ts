import { test } from 'tap';
import { openObserver } from '../lab/observer.ts';
import { labSkipReason } from '../lab/preflight.ts';
import {
  askUdp,
  curl,
  curlMany,
  exampleTopology,
  identityOf,
  openMesh,
  UDP_CALL,
  urlOf,
} from './mesh.ts';

const skip = labSkipReason(process.env);

test('traffic between two clusters', { skip, timeout: 240_000 }, async (t) => {
  await using lab = await openMesh(await exampleTopology());
  const client = lab.pod('client');
  const remote = lab.pod('web-beta');
  const vault = lab.pod('vault');

  await t.test('every agent has a session with its registry', async (t) => {
    for (const { name } of lab.plan.nodes) {
      const session = await lab.waitFor(`the session of ${name}`, async () => {
        const { registry } = await lab.agent(name).status();
        return registry?.healthy && registry;
      });
      t.match(session.text, /^accepted/, name);
    }
  });

  await t.test(
    'TCP and UDP from pod to pod, over both families, without address translation',
    async (t) => {
      for (const family of [4, 6] as const) {
        const { stdout } = await curl(lab, 'client', urlOf(remote.ip(family), 8080));
        t.equal(stdout, `web-beta ${client.ip(family)}\n`, `TCP over IPv${family}`);
        const answer = await askUdp(lab, 'client', remote.ip(family), 5353);
        t.equal(answer, `web-beta ${client.ip(family)}`, `UDP over IPv${family}`);
      }
    },
  );

  await t.test('full packets fit through the tunnel', async (t) => {
    for (const family of [4, 6] as const) {
      const url = urlOf(remote.ip(family), 8080, '/bytes?count=8000000');
      const argv = ['curl', '-sS', '--max-time', '20', '-o', '/dev/null', '-w', '%{size_download}'];
      t.equal((await lab.exec('client', [...argv, url])).stdout, '8000000', `over IPv${family}`);
    }
  });

  await t.test('a global service answers from both clusters', async (t) => {
    for (const family of [4, 6] as const) {
      const url = urlOf(lab.clusterIp('alpha', 'web', family), 80);
      const { byPod, failed } = await curlMany(lab, 'client', { url, times: 60 });
      t.equal(failed, 0);
      t.same(Object.keys(byPod).sort(), ['web-alpha', 'web-beta'], `over IPv${family}`);
    }
    const seen = new Set<string>();
    for (let count = 0; count < 40 && seen.size < 2; count += 1) {
      seen.add(
        (await askUdp(lab, 'client', lab.clusterIp('alpha', 'web'), 53)).split(' ')[0] ?? '',
      );
    }
    t.same([...seen].sort(), ['web-alpha', 'web-beta'], 'over UDP');
  });

  await t.test('programs of the nodes reach pods of the other cluster', async (t) => {
    const [v4, v6] = lab.node('alpha-1').addresses;
    for (const { name, cluster } of lab.plan.nodes) {
      const others = lab.plan.nodes.filter((node) => node.cluster !== cluster);
      await lab.waitFor(`the routes of ${name} to the other cluster`, async () => {
        const show = 'ip -4 route show proto 73; ip -6 route show proto 73';
        const { stdout } = await lab.execOnNode(name, ['sh', '-c', show]);
        return others.every(({ podCidrs }) => podCidrs.every((cidr) => stdout.includes(cidr)));
      });
    }
    for (const [family, node] of [
      [4, v4],
      [6, v6],
    ] as const) {
      const address = remote.ip(family);
      const argv = ['curl', '-sS', '--max-time', '5', urlOf(address, 8080)];
      const tcp = await lab.execOnNode('alpha-1', argv);
      t.equal(tcp.stdout, `web-beta ${node}\n`, `TCP over IPv${family}: ${tcp.stderr}`);
      const udp = await lab.execOnNode('alpha-1', [...UDP_CALL, address, '5353']);
      t.equal(udp.stdout.trim(), `web-beta ${node}`, `UDP over IPv${family}`);
      const ping = await lab.execOnNode('alpha-1', ['ping', '-c', '1', '-W', '5', address]);
      t.equal(ping.code, 0, `ICMP over IPv${family}`);
      const bytes = urlOf(address, 8080, '/bytes?count=1000000');
      const count = [
        'curl',
        '-sS',
        '--max-time',
        '20',
        '-o',
        '/dev/null',
        '-w',
        '%{size_download}',
      ];
      t.equal((await lab.execOnNode('alpha-1', [...count, bytes])).stdout, '1000000');
    }
  });

  await t.test('and pods of that cluster reach their servers', async (t) => {
    for (const address of lab.node('alpha-1').addresses) {
      // The gate: without a certificate it ends the handshake, which takes a connection.
      const url = urlOf(address, 2379).replace('http:', 'https:');
      const { code, stderr } = await curl(lab, 'web-beta', url);
      t.notOk([7, 28].includes(code), `${address} answers: ${stderr}`);
      const ping = await lab.exec('web-beta', ['ping', '-c', '1', '-W', '5', address]);
      t.equal(ping.code, 0, `ICMP to ${address}`);
    }
  });

  await t.test('programs of a node call a service whose backends are all over there', async (t) => {
    await lab.setReady('web-alpha', false);
    for (const family of [4, 6] as const) {
      const address = lab.clusterIp('alpha', 'web', family);
      const node = lab.node('alpha-1').addresses[family === 4 ? 0 : 1];
      const argv = ['curl', '-sS', '--max-time', '5', urlOf(address, 80)];
      await lab.waitFor(`web-beta to be the only backend over IPv${family}`, async () => {
        const answers = await Promise.all(
          [1, 2, 3, 4, 5, 6, 7, 8].map(() => lab.execOnNode('alpha-1', argv)),
        );
        return answers.every(({ stdout }) => stdout === `web-beta ${node}\n`);
      });
      const udp = await lab.execOnNode('alpha-1', [...UDP_CALL, address, '53']);
      t.equal(udp.stdout.trim(), `web-beta ${node}`, `UDP over IPv${family}`);
    }
    await lab.setReady('web-alpha', true);
    await lab.waitFor('web-alpha to be used again', async () => {
      const url = urlOf(lab.clusterIp('alpha', 'web'), 80);
      return (await curl(lab, 'client', url)).stdout.startsWith('web-alpha');
    });
  });

  await t.test("the sender's identity is in the VNI", async (t) => {
    await using observer = await openObserver(lab);
    // To everybody else this is a node of beta with a pod on it.
    const manifests = lab.apiserver('beta').manifests;
    await manifests.write({
      apiVersion: 'v1',
      kind: 'Node',
      metadata: { name: 'observer' },
      spec: { podCIDRs: ['10.2.200.0/24'] },
      status: { addresses: [{ type: 'InternalIP', address: observer.address }] },
    });
    await manifests.write({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'observed', namespace: 'shop', labels: { app: 'observed' } },
      spec: { nodeName: 'observer', containers: [] },
      status: {
        phase: 'Running',
        hostIP: observer.address,
        podIP: '10.2.200.9',
        podIPs: [{ ip: '10.2.200.9' }],
      },
    });
    for (const [name, pod] of [
      ['client', client],
      ['stranger', lab.pod('stranger')],
    ] as const) {
      const identity = await identityOf(lab, name);
      t.equal(identity >> 16, 1, 'an identity of cluster 1');
      const packet = await lab.waitFor(`a packet of ${name} on the wire`, async () => {
        await lab.exec(name, ['curl', '--silent', '--max-time', '0.3', 'http://10.2.200.9/']);
        return observer.packets().find(({ source }) => source === pod.ip());
      });
      t.match(packet, {
        vni: identity,
        outerSource: lab.node('alpha-1').addresses[0],
        destination: '10.2.200.9',
      });
    }
    t.not(await identityOf(lab, 'client'), await identityOf(lab, 'stranger'));
  });

  await t.test(
    'policy at the destination goes by the identity, and counts what it denies',
    async (t) => {
      const agent = lab.agent('beta-2');
      await lab.waitFor('the policy on vault', async () =>
        (await agent.status()).endpoints.some(({ ingressEnforced }) => ingressEnforced),
      );
      for (const family of [4, 6] as const) {
        const url = urlOf(vault.ip(family), 8080);
        t.equal((await curl(lab, 'client', url)).stdout, `vault ${client.ip(family)}\n`);
        const before = await agent.count('policy-denied');
        t.equal((await curl(lab, 'stranger', url)).code, 28, 'stranger gets no answer');
        t.ok((await agent.count('policy-denied')) > before, 'counted under its own reason');
      }
    },
  );

  await t.test("a pod's new labels change what it may do", async (t) => {
    const url = urlOf(vault.ip(), 8080);
    await lab.addPod({ name: 'late', node: 'alpha-2', namespace: 'shop', labels: { app: 'late' } });
    t.equal((await curl(lab, 'late', url)).code, 28);
    await lab.relabel('late', { app: 'client', team: 'front' });
    const answer = await lab.waitFor('late to be let in', async () => {
      const { code, stdout } = await curl(lab, 'late', url);
      return code === 0 && stdout;
    });
    t.equal(answer, `vault ${lab.pod('late').ip()}\n`);
  });
});
