import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { curlMany, exampleTopology, mapsOf, openMesh, urlOf, waitUntilReady } from './mesh.ts';

const skip = labSkipReason(process.env);
const REQUESTS = 1000;
const ETCD_PAUSE_MS = 10_000;

test('what breaks does not break traffic', { skip, timeout: 240_000 }, async (t) => {
  await using lab = await openMesh(await exampleTopology());
  const url = urlOf(lab.clusterIp('alpha', 'web'), 80);

  await t.test(
    'agents killed and started again: a long download goes on, no new request fails',
    async (t) => {
      const download = startDownload(lab, 8);
      await lab.waitFor('the download to begin', () => download.output().includes('web-beta'));
      const requests = curlMany(lab, 'client', { url, times: REQUESTS });
      for (const node of ['alpha-1', 'beta-1', 'alpha-2']) {
        await lab.agent(node).kill();
        await lab.agent(node).start();
      }
      await lab.agent('alpha-1').restart();
      const { failed, byPod } = await requests;
      t.equal(failed, 0, `of ${REQUESTS}: ${JSON.stringify(byPod)}`);
      t.same((await download.exited).code, 0);
      t.match(download.output(), /\nend\n$/);
      for (const { name } of lab.plan.nodes) await waitUntilReady(lab, name);
    },
  );

  await t.test(
    'etcd of alpha halted for 10 s: no map changes, and news come when it goes on',
    async (t) => {
      const before = await allMaps(lab);
      const apiserver = lab.apiserver('alpha');
      await apiserver.stopEtcd();
      const deadline = systemClock.monotonic() + ETCD_PAUSE_MS;
      try {
        while (systemClock.monotonic() < deadline) {
          if (!t.same(await allMaps(lab), before, 'while etcd is halted')) break;
          await systemClock.sleep(1000);
        }
        t.equal((await curlMany(lab, 'client', { url, times: 50 })).failed, 0);
      } finally {
        await apiserver.startEtcd();
      }
      for (const { name } of lab.plan.nodes) await waitUntilReady(lab, name);
      t.same(await allMaps(lab), before, 'after it went on');
      await expectNews(lab);
    },
  );

  await t.test(
    'etcd and apiserver of alpha killed: no map changes, and news come when they are back',
    async (t) => {
      const before = await allMaps(lab);
      const apiserver = lab.apiserver('alpha');
      await apiserver.kill();
      t.same(await allMaps(lab), before, 'while they are gone');
      await apiserver.start();
      for (const { name } of lab.plan.nodes) await waitUntilReady(lab, name);
      t.same(await allMaps(lab), before, 'after they are back');
      await expectNews(lab);
    },
  );

  await t.test(
    'a removed backend gets no more requests, here and in the other cluster',
    async (t) => {
      await lab.removePod('web-alpha');
      const gone = '10.1.2.2';
      for (const { name } of lab.plan.nodes) {
        await lab.waitFor(`${gone} to leave the maps of ${name}`, async () =>
          (await mapsOf(lab, name)).every((row) => !row.includes(`"${gone}`)),
        );
      }
      t.same(await curlMany(lab, 'client', { url, times: 100 }), {
        byPod: { 'web-beta': 100 },
        failed: 0,
      });
    },
  );
});

/** A pod that comes up is known to the other cluster. */
async function expectNews(lab: Lab): Promise<void> {
  const pod = await lab.addPod({ name: 'news', node: 'alpha-2', namespace: 'shop' });
  await lab.waitFor(
    'beta to learn of the new pod',
    async () => (await mapsOf(lab, 'beta-1')).some((row) => row.includes(`${pod.ip()}/32`)),
    { timeoutMs: 30_000 },
  );
  await lab.removePod('news');
  for (const { name } of lab.plan.nodes) {
    await lab.waitFor(`${name} to forget the pod`, async () =>
      (await mapsOf(lab, name)).every((row) => !row.includes(`${pod.ip()}/32`)),
    );
  }
}

async function allMaps(lab: Lab): Promise<Record<string, string[]>> {
  const maps: Record<string, string[]> = {};
  for (const { name } of lab.plan.nodes) maps[name] = await mapsOf(lab, name);
  return maps;
}

function startDownload(lab: Lab, seconds: number): ReturnType<Lab['spawn']> {
  const url = urlOf(lab.pod('web-beta').ip(), 8080, `/slow?seconds=${seconds}`);
  return lab.spawn('client', ['curl', '--silent', '--no-buffer', url]);
}
