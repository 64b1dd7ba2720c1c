import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { eventually } from '../testing/publishing-rig.ts';
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
