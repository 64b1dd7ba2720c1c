import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { run } from '../lab/command.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import type { Topology } from '../lab/topology.ts';
import { curlMany, exampleTopology, openMesh, urlOf, waitUntilReady } from './mesh.ts';

const skip = labSkipReason(process.env);
const STALE_MS = 1500;
const TTL_MS = 4000;
/** Three rounds of probes, each with its pause and its patience, may follow the time that was set. */
const BOUND_MS = TTL_MS + 12_000;
const NODE = 'alpha-1';

/** The example, and a service whose backends are all in beta. */
async function topology(): Promise<Topology> {
  const example = await exampleTopology();
  const pod = example.pods.find(({ name }) => name === 'web-beta');
  if (pod === undefined) throw new Error('the example has no pod web-beta');
  return {
    ...example,
    pods: [...example.pods, { ...pod, name: 'far', node: 'beta-2', labels: { app: 'far' } }],
    services: [
      ...example.services,
      {
        name: 'far',
        namespace: 'shop',
        selector: { app: 'far' },
        annotations: { 'service.cilium.io/global': 'true' },
        ports: [{ name: 'http', port: 80, targetPort: 8080, protocol: 'TCP' }],
      },
    ],
  };
}

/** Requests to a service, ten at a time, until told to stop; resolves to how many there were and failed. */
function startLoad(lab: Lab, service: string): () => Promise<{ asked: number; failed: number }> {
  const url = urlOf(lab.clusterIp('alpha', service), 80);
  let running = true;
  const load = (async () => {
    let asked = 0;
    let failed = 0;
    while (running) {
      failed += (await curlMany(lab, 'client', { url, times: 10 })).failed;
      asked += 10;
    }
    return { asked, failed };
  })();
  return () => {
    running = false;
    return load;
  };
}

/** Sources of a service's backends in the kernel of a node: cluster ids, sorted. */
async function sourcesOf(lab: Lab, service: string): Promise<string> {
  const address = lab.clusterIp('alpha', service);
  const rows = await lab.agent(NODE).map('services');
  const row = rows.find((found) => found.address === address && found.protocol === 'TCP');
  const backends = (row?.backends ?? []) as readonly { clusterId: number }[];
  return backends
    .map(({ clusterId }) => clusterId)
    .sort()
    .join();
}

/** Each different answer of `sourcesOf` until told to stop. */
function startHistory(lab: Lab, service: string): () => Promise<string[]> {
  let running = true;
  const watch = (async () => {
    const past: string[] = [];
    // The last look begins after the end was asked for: it sees what the asker has seen.
    for (let isLast = false; !isLast; ) {
      isLast = !running;
      const now = await sourcesOf(lab, service);
      if (past.at(-1) !== now) past.push(now);
      if (!isLast) await systemClock.sleep(50);
    }
    return past;
  })();
  return () => {
    running = false;
    return watch;
  };
}

const stateOfBeta = async (lab: Lab): Promise<string> =>
  (await lab.agent(NODE).status()).clusters.find(({ name }) => name === 'beta')?.state.kind ??
  'absent';

/** Pulls the cables of all nodes of beta, or plugs them in again. */
async function cables(lab: Lab, action: 'pull' | 'plug'): Promise<void> {
  for (const node of lab.cluster('beta').nodes) {
    const master = action === 'pull' ? ['nomaster'] : ['master', 'br0'];
    await run(['ip', 'link', 'set', `n${node.number}`, ...master], {
      netns: lab.plan.fabric,
      signal: undefined,
    });
  }
}

test('a cluster that is silent, and a cluster that is dead (promise 1)', {
  skip,
  timeout: 240_000,
}, async (t) => {
  await using lab = await openMesh(await topology(), {
    agentFlags: [`--peer-stale-after=${STALE_MS}ms`, `--clustermesh-cache-ttl=${TTL_MS}ms`],
  });

  // On a slow machine so short a silence may come about by itself.
  await lab.waitFor('both clusters', async () => (await sourcesOf(lab, 'web')) === '1,2');

  await t.test('the apiserver of beta is away for long: no request fails', async (st) => {
    const web = startLoad(lab, 'web');
    const far = startLoad(lab, 'far');
    const history = startHistory(lab, 'web');
    const apiserver = lab.apiserver('beta');
    await apiserver.kill();
    await lab.waitFor('beta to be stale', async () => (await stateOfBeta(lab)) === 'stale');
    await systemClock.sleep(TTL_MS + 2000);
    st.equal(await stateOfBeta(lab), 'stale', 'its nodes answer: nothing is withdrawn');
    st.equal(await sourcesOf(lab, 'far'), '2', 'where there are no others its backends are used');
    await apiserver.start();
    await waitUntilReady(lab, NODE);
    await lab.waitFor('beta to be used again', async () => (await sourcesOf(lab, 'web')) === '1,2');
    st.same(await history(), ['1,2', '1', '1,2'], 'without a flap');
    for (const stop of [web, far]) {
      const { asked, failed } = await stop();
      st.equal(failed, 0, `of ${asked}`);
      st.ok(asked > 100, `${asked} requests`);
    }
  });

  await t.test(
    'every node of beta is away: its backends go within the bound, and come back once',
    async (st) => {
      const history = startHistory(lab, 'web');
      const began = systemClock.monotonic();
      await cables(lab, 'pull');
      try {
        await lab.waitFor(
          'beta to leave the service',
          async () => (await sourcesOf(lab, 'web')) === '1',
        );
        const url = urlOf(lab.clusterIp('alpha', 'web'), 80);
        st.same(await curlMany(lab, 'client', { url, times: 100 }), {
          byPod: { 'web-alpha': 100 },
          failed: 0,
        });
        await lab.waitFor(
          'beta to be withdrawn',
          async () => (await stateOfBeta(lab)) === 'withdrawn',
          {
            timeoutMs: 30_000,
          },
        );
        const took = Math.round(systemClock.monotonic() - began);
        st.ok(took >= TTL_MS && took < BOUND_MS, `withdrawn after ${took} ms`);
        const addresses = (await lab.agent(NODE).map('ipcache')).map((row) => String(row.prefix));
        st.ok(
          addresses.includes(`${lab.pod('web-beta').ip()}/32`),
          'addresses are kept for policy',
        );
      } finally {
        await cables(lab, 'plug');
      }
      await lab.waitFor(
        'beta to be used again',
        async () => (await sourcesOf(lab, 'web')) === '1,2',
        {
          timeoutMs: 40_000,
        },
      );
      await waitUntilReady(lab, NODE);
      st.same(await history(), ['1,2', '1', '1,2'], 'without a flap');
      const url = urlOf(lab.clusterIp('alpha', 'web'), 80);
      const { byPod, failed } = await curlMany(lab, 'client', { url, times: 200 });
      st.equal(failed, 0);
      st.ok((byPod['web-beta'] ?? 0) > 0, JSON.stringify(byPod));
    },
  );
});
