import { mkdir, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { connectionReader } from '../../mesh/remote/connection.ts';
import { createMesh } from '../../mesh/remote/mesh.ts';
import { createRecordingSink } from '../../mesh/remote/testing/recording-sink.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { ADDRESSES, openBetaRig, untilReady } from './testing/beta-rig.ts';
import { mirrored, openMirrorRig } from './testing/mirror-rig.ts';

const skip = etcdSkipReason(process.env);

test('an agent reads from the mirror what it would read at the source', { skip }, async (t) => {
  const { rig, side, beta } = await openBetaRig(t);
  await untilReady(await rig.start());
  const dir = await openTempDir('mirror-agent');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const read = async (endpoint: string) => {
    const folder = dir.file(`peers-${endpoint.split(':').at(-1)}`);
    await mkdir(folder);
    await writeFile(`${folder}/beta`, `endpoints:\n- ${endpoint}\n`);
    const sink = createRecordingSink();
    const ending = new AbortController();
    const mesh = createMesh({
      context: {
        own: { name: parseClusterName('local'), id: parseClusterId(9), max: 255 },
        nodeIps: [],
        sink,
        clock: systemClock,
        logger: createLogger('test', { level: 'silent' }),
      },
      ownFile: undefined,
      directory: folder,
      readConnection: connectionReader({ clock: systemClock }),
      knownPeers: { idOf: () => undefined, learn: () => undefined, forget: () => undefined },
      setPeers: () => undefined,
    });
    const running = mesh.run(ending.signal);
    t.teardown(async () => {
      ending.abort();
      await running;
    });
    await eventually('beta to be read', () => mesh.status().clusters[0]?.state.kind === 'ready');
    return { sink, mesh };
  };
  const direct = await read(side.server.endpoint);
  const cached = await read(rig.local.server.endpoint);
  const sorted = ({ sink }: typeof direct) => [...sink.held].sort(([a], [b]) => (a < b ? -1 : 1));
  t.same(sorted(cached), sorted(direct));
  t.equal(cached.sink.held.size, ADDRESSES + 3);
  t.equal(cached.mesh.status().clusters[0]?.config?.cached, true);

  await beta.removeIp('10.2.0.1');
  await beta.node('n2', '192.0.2.2');
  const both = (): boolean =>
    [direct, cached].every(
      ({ sink }) => sink.held.has('node n2') && !sink.held.has('ip 10.2.0.1/32'),
    );
  await eventually('changes to come through', both);
  await eventually(
    'both to agree',
    () => JSON.stringify(sorted(cached)) === JSON.stringify(sorted(direct)),
  );
});

test('the mirror of a mirror', { skip }, async (t) => {
  const { rig } = await openBetaRig(t);
  const first = await rig.start();
  await untilReady(first);
  const second = await openMirrorRig(t);
  await second.configure('beta', rig.local.server.endpoint);
  const running = await second.start();
  await untilReady(running);
  t.same(await mirrored(second.local.store, 'beta'), await mirrored(rig.local.store, 'beta'));
});
