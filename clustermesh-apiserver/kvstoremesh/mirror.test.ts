import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { ADDRESSES, dataKeys, openBetaRig, untilReady } from './testing/beta-rig.ts';
import { mirrored, openMirrorRig } from './testing/mirror-rig.ts';

const skip = etcdSkipReason(process.env);

interface GoldenPair {
  readonly key: string;
  readonly value: string;
}

/** What Cilium itself wrote. */
async function readGolden(): Promise<GoldenPair[]> {
  const text = await readFile(projectPath('mesh/wire/testdata/cilium-kv.jsonl'), 'utf8');
  return text
    .trim()
    .split('\n')
    .map((line): GoldenPair => JSON.parse(line));
}

function isOfAlpha({ key, value }: GoldenPair): boolean {
  if (key.startsWith('cilium/state/ip/v1/'))
    return value.includes('"ID":65') || value.includes('"ID":98303,');
  const id = /^cilium\/state\/identities\/v1\/id\/(\d+)$/.exec(key)?.[1];
  if (id !== undefined) return Number(id) >>> 16 === 1;
  return key.split('/').includes('alpha');
}

test('a mirror holds what Cilium wrote, under the keys that Cilium reads', { skip }, async (t) => {
  const rig = await openMirrorRig(t);
  const source = await rig.openSource();
  const golden = (await readGolden()).filter(isOfAlpha);
  for (const { key, value } of golden) await source.store.put(key, value);
  await source.store.put('cilium/synced/alpha/cilium/state/serviceexports/v1', '');
  await source.store.put('cilium/state/identities/v1/value/k8s:app=web;/192.0.2.1', '65793');
  await rig.configure('alpha', source.server.endpoint);
  const { mesh } = await rig.start();
  await eventually(
    'the mirror to be ready',
    () => mesh.leader === 'leading' && mesh.missing.length === 0,
  );

  const found = await mirrored(rig.local.store, 'alpha');
  for (const { key, value } of golden) {
    const kind = key.split('/')[2];
    if (!key.startsWith('cilium/state/')) continue;
    const local =
      kind === 'ip'
        ? key.replace('cilium/state/ip/v1/default/', 'cilium/cache/ip/v1/alpha/')
        : kind === 'identities'
          ? key.replace('cilium/state/identities/v1/', 'cilium/cache/identities/v1/alpha/')
          : key.replace('cilium/state/', 'cilium/cache/');
    t.equal(found.get(local), Buffer.from(value).toString('latin1'), local);
    found.delete(local);
  }
  t.equal(
    found.get('cilium/cluster-config/alpha'),
    '{"id":1,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255,"serviceExportsEnabled":true}}',
  );
  found.delete('cilium/cluster-config/alpha');
  t.same(
    [...found.keys()].sort(),
    ['endpointslices', 'identities', 'ip', 'nodes', 'serviceexports', 'services'].map(
      (kind) => `cilium/synced/alpha/cilium/cache/${kind}/v1`,
    ),
  );
});

test('bytes that are no text, and kinds that go off', {
  skip,
}, async (t) => {
  const { rig, side, beta } = await openBetaRig(t);
  const capabilities = {
    serviceExportsEnabled: true,
    endpointSlicesExportMode: 'services-and-endpointslices',
  };
  await beta.config({ capabilities });
  // The beginning of every zstd frame, and bytes that are no UTF-8.
  const bytes = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0xfe, 0x80, 0xc3, 0x28]);
  await side.store.put('cilium/state/endpointslices/v1/beta/demo/web-1', bytes);
  const exported =
    '{"cluster":"beta","name":"db","namespace":"demo","exportCreationTimestamp":"2026-01-02T03:04:05Z","ports":[],"type":"ClusterSetIP","sessionAffinity":"None"}';
  await side.store.put('cilium/state/serviceexports/v1/beta/demo/db', exported);
  await side.store.put('cilium/synced/beta/cilium/state/endpointslices/v1', '');
  await side.store.put('cilium/synced/beta/cilium/state/serviceexports/v1', '');
  const running = await rig.start();
  await untilReady(running);
  const slice = 'cilium/cache/endpointslices/v1/beta/demo/web-1';
  const service = 'cilium/cache/serviceexports/v1/beta/demo/db';
  t.same((await rig.local.store.get(slice))?.value, bytes);
  t.equal((await rig.local.store.get(service))?.value.toString(), exported);

  await beta.config();
  await eventually(
    'kinds that are off to be drained',
    async () =>
      (await rig.local.store.get(slice)) === undefined &&
      (await rig.local.store.get(service)) === undefined,
  );
  t.ok(await rig.local.store.get('cilium/synced/beta/cilium/cache/endpointslices/v1'));
  t.equal((await dataKeys(rig)).length, ADDRESSES + 3);
});
