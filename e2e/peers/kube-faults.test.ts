import { readFile } from 'node:fs/promises';
import { request } from 'node:https';
import { test } from 'tap';
import { waitFor } from '../lab/wait-for.ts';
import { openKubeCluster } from './kube-cluster.ts';
import { openKubeFaultProxy } from './kube-faults.ts';
import { needKube } from './kube-programs.ts';
import { expectOk, openKubeRequester } from './kube-request.ts';
import type { KubeEndpoint } from './kubeconfig.ts';

const { skip, programs } = needKube(process.env);
const MAPS = '/api/v1/namespaces/default/configmaps';

test('a proxy puts faults in front of a real API server', { skip }, async (t) => {
  await using cluster = await openKubeCluster({ name: 'faulty', programs });
  await using proxy = await openKubeFaultProxy(cluster.endpoint);
  using client = await openKubeRequester(proxy.endpoint, cluster.adminToken);
  const make = (name: string): Promise<unknown> =>
    cluster.ask('POST', MAPS, { body: { metadata: { name } } });
  const watchMaps = async () =>
    openRawWatch(proxy.endpoint, `${MAPS}?watch=true`, cluster.adminToken);
  for (let i = 0; i < 20; i += 1) await make(`map-${i}`);

  await t.test('without a fault it passes everything on, as the user who asks', async (t) => {
    await expectOk(client, ['POST', MAPS], { body: { metadata: { name: 'through' } } });
    const user = await cluster.addUser('nobody');
    const answer = await cluster.kubectl(['auth', 'whoami', '-o=json'], {
      kubeconfig: await user.kubeconfigAt('proxy', proxy.endpoint),
    });
    t.match(answer, user.userName);
    t.equal(proxy.count(/\/configmaps$/, 'POST'), 1);
    t.equal(proxy.count(/\/configmaps$/, 'GET'), 0);
  });

  await t.test('it answers by itself, and can leave watches alone', async (t) => {
    for (const status of [401, 410, 429, 500, 503]) {
      proxy.setFault(() => ({ kind: 'answer', status }));
      const { status: got, body } = await client.send('GET', MAPS);
      t.equal(got, status);
      t.match(body, { kind: 'Status', code: status });
    }
    proxy.setFault(() => ({ kind: 'answer', status: 429, retryAfterSeconds: 1 }));
    const raw = await openRawWatch(proxy.endpoint, MAPS, cluster.adminToken);
    t.equal(raw.headers['retry-after'], '1');
    proxy.setFault((seen) => (seen.isWatch ? { kind: 'watch-error', status: 410 } : undefined));
    t.equal((await client.send('GET', MAPS)).status, 200);
    const watch = await watchMaps();
    await waitFor('the error event', () => watch.text().includes('"ERROR"'));
    t.match(JSON.parse(watch.text()), { type: 'ERROR', object: { code: 410 } });
  });

  await t.test('it stalls and cuts answers half-way', async (t) => {
    proxy.setFault(() => ({ kind: 'cut', afterBytes: 100 }));
    await t.rejects(client.send('GET', MAPS), { code: 'ECONNRESET' });
    proxy.setFault(() => ({ kind: 'stall', afterBytes: 100 }));
    const list = await openRawWatch(proxy.endpoint, MAPS, cluster.adminToken);
    await waitFor('the first bytes', () => list.text().length === 100);
    proxy.setFault(() => ({ kind: 'slow', delayMs: 300 }));
    const started = performance.now();
    t.equal((await client.send('GET', MAPS)).status, 200);
    t.ok(performance.now() - started >= 299);
    t.equal(list.text().length, 100);
    t.notOk(list.ended());
    list.close();
  });

  await t.test('it silences and cuts watches that are open', async (t) => {
    proxy.setFault(undefined);
    const silent = await watchMaps();
    await waitFor('the first events', () => silent.text().includes('map-19'));
    t.equal(
      proxy.stallOpen((seen) => seen.isWatch),
      1,
    );
    const lively = await watchMaps();
    await make('unseen');
    await waitFor('the event by the second watch', () => lively.text().includes('unseen'));
    t.notMatch(silent.text(), 'unseen');
    t.notOk(silent.ended());
    t.equal(
      proxy.cutOpen((seen) => seen.isWatch),
      2,
    );
    await waitFor('both to end', () => silent.ended() && lively.ended());
  });
});

interface RawWatch {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  text(): string;
  ended(): boolean;
  close(): void;
}

/** What came so far of an answer that may never end. */
async function openRawWatch(
  endpoint: KubeEndpoint,
  path: string,
  token: string,
): Promise<RawWatch> {
  const ca = await readFile(endpoint.caFile);
  return new Promise((resolve, reject) => {
    const sent = request(`${endpoint.url}${path}`, {
      ca,
      agent: false,
      headers: { authorization: `Bearer ${token}` },
    });
    let text = '';
    let ended = false;
    sent.once('error', reject);
    sent.once('response', (answer) => {
      answer.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      answer.on('error', () => undefined);
      answer.once('close', () => {
        ended = true;
      });
      resolve({
        headers: answer.headers,
        text: () => text,
        ended: () => ended,
        close: () => sent.destroy(),
      });
    });
    sent.end();
  });
}
