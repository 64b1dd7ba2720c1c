import { test } from 'tap';
import { until } from '../mesh/remote/testing/until.ts';
import type { PolicyReport } from './api/status.ts';
import { openNodeRig } from './testing/node-rig.ts';
import { policyText, publishAlpha, publishBeta, SERVER } from './testing/two-clusters.ts';

test('a pod is closed until the cluster says who it is, then as its policies say', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.removeIp('10.1.0.5');
  await rig.alpha.policy('p', {
    endpointSelector: SERVER,
    ingress: [
      {
        fromEndpoints: [{ matchLabels: { app: 'client' } }],
        toPorts: [{ ports: [{ port: '8080', protocol: 'TCP' }] }],
      },
    ],
  });
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200);
  t.match(rig.datapath.endpoints.get('1'), {
    identity: 5,
    ingressEnforced: true,
    hostInterface: 'vetha',
  });
  await rig.alpha.ip('10.1.0.5', { host: '192.0.2.1', local: 257 });
  await until('it is known', () => rig.datapath.endpoints.get('1')?.identity === 65_793);
  t.equal(rig.datapath.endpoints.get('1')?.ingressEnforced, true);
  t.same(policyText(rig.datapath), ['1 65794 6/8080']);
  await rig.alpha.identity(259, { app: 'client', version: '2' });
  await until('a new client is let in', () => policyText(rig.datapath).length === 2);
  await rig.alpha.removeIdentity(259);
  await until('and goes', () => policyText(rig.datapath).length === 1);
  await rig.alpha.policy('p', { endpointSelector: SERVER, ingress: [{ fromEntities: ['world'] }] });
  await until(
    'the changed policy holds',
    () => policyText(rig.datapath).join() === '1 10 0/0,1 2 0/0,1 9 0/0',
  );
  await rig.alpha.removePolicy('p');
  await until('it is open', () => rig.datapath.endpoints.get('1')?.ingressEnforced === false);
  t.same(policyText(rig.datapath), []);
});

test('the registry is told how policies stand once all of them are known', async (t) => {
  let policies: (() => readonly PolicyReport[] | undefined) | undefined;
  const rig = await openNodeRig(t, {
    registry: {
      state: { kind: 'connecting' },
      describe: () => 'connecting',
      run: async (signal, told) => {
        policies = told?.policies;
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
      },
    },
  });
  await rig.start();
  await publishAlpha(rig.alpha);
  const ingress = [{ fromEntities: ['world'] }, { toPorts: [{ rules: { http: [{}] } }] }];
  await rig.alpha.policy('p', { endpointSelector: SERVER, ingress });
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200);
  t.equal(policies?.(), undefined, 'not before');
  await rig.alpha.marked();
  await until('a report', () => policies?.()?.[0]?.endpoints.length === 1);
  t.match(policies?.(), [
    { state: 'partly-refused', entries: 3, problems: [{ path: /^spec\.ingress\[1\]/ }] },
  ]);
});

test('a pod added while the own cluster is out of reach is closed, not open', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200);
  await publishAlpha(rig.alpha);
  await rig.alpha.policy('p', { endpointSelector: SERVER, ingress: [{}] });
  t.match(rig.datapath.endpoints.get('1'), { identity: 5, ingressEnforced: true });
  await rig.alpha.marked();
  await until('it is known', () => rig.datapath.endpoints.get('1')?.identity === 65_793);
  t.equal(rig.datapath.endpoints.get('1')?.ingressEnforced, true);
});

test('a peer that never completes keeps the policy rows of its identities, as long as a policy could want them', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  const allow = (port: string) => ({
    endpointSelector: SERVER,
    ingress: [
      {
        fromEndpoints: [{ matchLabels: { app: 'client', 'io.cilium.k8s.policy.cluster': 'beta' } }],
        toPorts: [{ ports: [{ port, protocol: 'TCP' }] }],
      },
    ],
  });
  await rig.alpha.policy('p', allow('8080'));
  await rig.alpha.policy('q', allow('9090'));
  await rig.alpha.marked();
  const beta = await publishBeta();
  await rig.addPeer(beta);
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  await rig.ready('alpha');
  await rig.ready('beta');
  await until('both rows are there', () => policyText(rig.datapath).length === 2);
  await rig.stop();
  beta.store.faults.disconnect();
  await rig.alpha.removePolicy('q');
  await rig.start();
  await rig.ready('alpha');
  // Policies that changed meanwhile wait for the peer, which they may be about, for 15 s at most.
  await until(
    'the row of the policy that went is gone',
    () => policyText(rig.datapath).length === 1,
    40_000,
  );
  t.same(policyText(rig.datapath), ['1 131329 6/8080']);
});

test('policy rows stand before the endpoint, the endpoint before the answer', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.policy('p', { endpointSelector: SERVER, ingress: [{ fromEntities: ['host'] }] });
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  await until('the address is known', () => rig.datapath.ipcache.get('10.1.0.5/32') !== undefined);
  const written = rig.datapath.log.length;
  await rig.addPod('a', '10.1.0.5');
  t.same(rig.datapath.log.slice(written), [
    { table: 'policy', kind: 'upsert', key: '1/ingress/1/0/0/0' },
    { table: 'endpoints', kind: 'upsert', key: '1' },
    { kind: 'attach', key: 'vetha' },
  ]);
});

test('status says what of a policy is not enforced, and whom the policy selects', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.policy('p', {
    endpointSelector: SERVER,
    ingress: [{ fromGroups: [{ aws: {} }] }],
  });
  await rig.alpha.marked();
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  await rig.ready('alpha');
  await until(
    'the endpoint is known',
    async () => (await rig.status()).endpoints[0]?.identity === 65_793,
  );
  const { policies } = await rig.status();
  t.match(policies, [
    {
      policy: 'CiliumNetworkPolicy demo/p',
      state: 'partly-refused',
      endpoints: [1],
      problems: [
        {
          path: 'spec.ingress[0].fromGroups',
          message: /is not supported by this version: the rule allows nothing/,
        },
      ],
    },
  ]);
});

test('status says how many entries a policy makes, and which pod is closed because it needs too many', async (t) => {
  const rig = await openNodeRig(t, { policyMapMax: 5 });
  await publishAlpha(rig.alpha);
  const world = (ports: readonly string[]) => ({
    endpointSelector: SERVER,
    ingress: [
      {
        fromEntities: ['world'],
        toPorts: [{ ports: ports.map((port) => ({ port, protocol: 'TCP' })) }],
      },
    ],
  });
  await rig.alpha.policy('p', world(['80']));
  await rig.alpha.marked();
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  await until('the pod has its rows', () => policyText(rig.datapath).length === 3);
  t.match(await rig.status(), {
    endpoints: [{ policyEntries: 3 }],
    policies: [{ entries: 3, lastError: undefined, state: 'enforced' }],
    notes: [],
  });
  await rig.alpha.policy('p', world(['80', '443']));
  await until('the pod is closed', () => policyText(rig.datapath).length === 0);
  t.match(rig.datapath.endpoints.get('1'), { ingressEnforced: true });
  t.match(await rig.status(), {
    endpoints: [{ policyEntries: 6 }],
    policies: [{ lastError: 'endpoints 1 are closed: see the notes' }],
    notes: [/^endpoint 1 needs 6 policy entries, more than the 5 of --bpf-policy-map-max/],
  });
  await rig.alpha.policy('p', world(['443']));
  await until('it is as its policy says', () => policyText(rig.datapath).length === 3);
  t.match(await rig.status(), { notes: [] });
});
