import { type Test, test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { FrontendEntry } from './desired.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import { testFrontend } from './testing/service-maps.ts';
import { openServiceRig, type Place, type ServiceRig } from './testing/service-rig.ts';

const skip = kernelSkipReason();
const CLUSTER_IP = { 4: '172.20.0.1', 6: 'fd00:20::1' } as const;
const FAMILIES = [4, 6] as const;
/** More than one window, in segments that the device cuts. */
const BYTES = 3_000_000;
const NODE_PORT = 30_080;

/** Frontend rows of both protocols with the servers of these places behind them. */
function frontend(
  rig: ServiceRig,
  family: 4 | 6,
  options: { address: string; port: number; to: readonly Place[] } & Partial<
    Pick<FrontendEntry, 'scope' | 'isExternal' | 'draining'>
  >,
): FrontendEntry[] {
  const { address, port, to, ...fields } = options;
  return (['TCP', 'UDP'] as const).map((protocol) =>
    testFrontend(
      to.map((place) => ({
        address: parseIpAddress(rig.addresses[place][family]),
        port: 8080,
        protocol,
        clusterId: place === 'remote' ? 2 : 1,
      })),
      { address: parseIpAddress(address), port, protocol, ...fields },
    ),
  );
}

test('translation: packets of real sockets', { skip, timeout: 180_000 }, async (t) => {
  await using rig = await openServiceRig({
    externalServices: true,
    devices: ['outside0', 'underlay'],
  });
  await t.test('pods whose sockets no hook sees call services', (t) => callFromPod(t, rig));
  await t.test('calls from outside', (t) => callFromOutside(t, rig));
});

async function callFromPod(t: Test, rig: ServiceRig): Promise<void> {
  const { client } = rig.processes;
  for (const family of FAMILIES) {
    const address = CLUSTER_IP[family];
    const own = rig.addresses.client[family];
    const loopback = family === 4 ? '169.254.42.1' : '100:0:0:1::1';
    for (const place of ['local', 'remote', 'node', 'client'] as const) {
      await rig.serve(frontend(rig, family, { address, port: 80, to: [place] }));
      const seen = place === 'client' ? loopback : own;
      const what = `IPv${family} to ${place}`;
      const call = { call: what, address, port: 80 };
      t.match(
        await client.request({ kind: 'call', ...call, bytes: BYTES }),
        { said: `${place} ${seen}`, from: address },
        `TCP over ${what}`,
      );
      t.match(
        await client.request({ kind: 'finish', call: what }),
        { bytes: BYTES, taken: BYTES },
        'megabytes both ways, through a tunnel that is narrower than the link',
      );
      for (const bytes of [100, 4000]) {
        t.match(
          await client.request({ kind: 'datagram', ...call, bytes }),
          { said: `${place} ${seen}`, from: address, bytes, taken: bytes },
          `UDP over ${what}, ${bytes} bytes`,
        );
      }
    }
  }

  const address = CLUSTER_IP[4];
  await rig.serve(frontend(rig, 4, { address, port: 80, to: ['remote'] }));
  t.match(
    await client.request({ kind: 'call', call: 'download', address, port: 80, bytes: BYTES }),
    {
      said: 'remote 10.1.0.2',
    },
  );
  await rig.serve(frontend(rig, 4, { address, port: 80, to: ['local'] }));
  t.match(
    await client.request({ kind: 'call', call: 'new', address, port: 80, bytes: 10 }),
    { said: 'local 10.1.0.2' },
    'the backend has left: a new call goes elsewhere',
  );
  t.match(
    await client.request({ kind: 'finish', call: 'download' }),
    { bytes: BYTES, taken: BYTES },
    'and the download that it has begun comes to its end',
  );
  t.match(
    await client.request({
      kind: 'datagram',
      call: 'IPv4 to client',
      address,
      port: 80,
      bytes: 10,
    }),
    { said: 'local 10.1.0.2' },
    'a connected UDP socket moves on',
  );
  for (const family of FAMILIES) {
    const refused = { address: CLUSTER_IP[family], port: 80, bytes: 10 };
    await rig.serve(frontend(rig, family, { address: CLUSTER_IP[family], port: 80, to: [] }));
    t.match(await client.request({ kind: 'call', call: 'refused', ...refused }), {
      error: 'ECONNREFUSED',
    });
    t.match(
      await client.request({ kind: 'datagram', call: `refused ${family}`, ...refused }),
      { error: 'ECONNREFUSED' },
      'nobody there: refused at once, by a reset or an ICMP error',
    );
  }
}

async function callFromOutside(t: Test, rig: ServiceRig): Promise<void> {
  const { outside } = rig.processes;
  const external = { port: NODE_PORT, isExternal: true } as const;
  for (const family of FAMILIES) {
    const address = rig.addresses.node[family];
    const own = rig.addresses.outside[family];
    for (const place of ['local', 'remote', 'node'] as const) {
      await rig.serve(frontend(rig, family, { address, to: [place], ...external }));
      const seen = place === 'remote' ? address : own;
      const what = `IPv${family} to ${place}`;
      const call = { call: what, address, port: NODE_PORT };
      t.match(
        await outside.request({ kind: 'call', ...call, bytes: BYTES }),
        { said: `${place} ${seen}`, from: address },
        `NodePort over ${what}`,
      );
      t.match(await outside.request({ kind: 'finish', call: what }), {
        bytes: BYTES,
        taken: BYTES,
      });
      t.match(
        await outside.request({ kind: 'datagram', ...call, bytes: 100 }),
        { said: `${place} ${seen}`, from: address, taken: 100 },
        'UDP',
      );
    }
    await rig.serve(frontend(rig, family, { address, to: [], ...external }));
    const refused = { call: `refused ${family}`, address, port: NODE_PORT, bytes: 10 };
    t.match(await outside.request({ kind: 'call', ...refused }), { error: 'ECONNREFUSED' });
    t.match(await outside.request({ kind: 'datagram', ...refused }), { error: 'ECONNREFUSED' });

    const balancer = family === 4 ? '203.0.113.7' : '2001:db8:1::7';
    await rig.serve(
      frontend(rig, family, { address: balancer, port: 80, to: ['remote'], isExternal: true }),
    );
    await rig.serve(
      frontend(rig, family, { address: balancer, port: 80, to: ['local'], scope: 'external' }),
    );
    t.match(
      await outside.request({
        kind: 'call',
        call: 'balancer',
        address: balancer,
        port: 80,
        bytes: 10,
      }),
      { said: `local ${own}`, from: balancer },
      'a load balancer address that is on no interface; its row for those outside comes first',
    );
    const clusterIp = CLUSTER_IP[family];
    await rig.serve(frontend(rig, family, { address: clusterIp, port: 80, to: ['local'] }));
    t.match(
      await outside.request({ kind: 'call', call: 'direct', address, port: 8080, bytes: 10 }),
      { said: `node ${own}` },
      "the node's other ports are its own",
    );
  }
}
