/** Promise 4: who is not known yet gets through no rule for everybody beside which another denies some by their labels. */
import { type Test, test } from 'tap';
import { labelsFromRecord } from '../../mesh/wire/identity.ts';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { lookupVerdict } from '../policy/map-entries.ts';
import { openPolicyEngine, type PolicyEngine } from '../testing/policy-engine.ts';
import { ALPHA, BETA, ENDPOINTS } from '../testing/policy-world.ts';
import { isKnownRow } from './known-identities.ts';
import { createMemoryDatapath, type MemoryDatapath } from './memory-datapath.ts';

const CLUSTER = 'io.cilium.k8s.policy.cluster';
/** Identities of the peer. */
const CLIENT = 2 * 65_536 + 300;
const OTHER = 2 * 65_536 + 301;
const LATE_CLIENT = 2 * 65_536 + 302;
const LATE_OTHER = 2 * 65_536 + 303;
const PORT = 8080;

const toPorts = [{ ports: [{ port: String(PORT), protocol: 'TCP' }] }];
const anyCluster = [{ key: CLUSTER, operator: 'Exists' }];
const peers = (app: string) => [{ matchLabels: { app }, matchExpressions: anyCluster }];
const BY_LABELS = { ingress: [{ fromEndpoints: peers('client'), toPorts }] };
const ALL_BUT = {
  ingress: [{ fromEntities: ['all'], toPorts }],
  ingressDeny: [{ fromEndpoints: peers('other') }],
};
const OPEN_BUT = {
  enableDefaultDeny: { ingress: false },
  ingressDeny: [{ fromEndpoints: peers('other') }],
};

function setPolicy({ engine }: PolicyEngine, spec: object, app = 'server'): void {
  const name = `policy-of-${app}`;
  engine.apply(
    ALPHA,
    {
      kind: 'local-policy',
      name: `cnp/demo/${name}`,
      value: {
        kind: 'CiliumNetworkPolicy',
        namespace: 'demo',
        name,
        generation: 1,
        manifest: { spec: { endpointSelector: { matchLabels: { app } }, ...spec } },
      },
    },
    undefined,
  );
}

function setPeer({ engine }: PolicyEngine, identity: number, app: string | undefined): void {
  const labels = { app: app ?? '', 'io.kubernetes.pod.namespace': 'demo', [CLUSTER]: BETA.name };
  const value = app === undefined ? undefined : labelsFromRecord(labels);
  engine.apply(BETA, { kind: 'identity', id: parseNumericIdentity(identity), value }, undefined);
}

/** Who of the peer may call an endpoint. */
function allowed(twin: MemoryDatapath, endpointId = 1): number[] {
  const endpoint = twin.endpoints.get(String(endpointId));
  const all = twin.policy.rows();
  const known = new Set(all.filter(isKnownRow).map(({ identity }) => identity));
  const rows = all.filter((row) => row.endpointId === endpointId);
  return [CLIENT, OTHER, LATE_CLIENT, LATE_OTHER].filter((identity) => {
    const question = { direction: 'ingress', identity, protocol: 6, port: PORT } as const;
    const isStranger = !known.has(identity);
    return (
      endpoint?.ingressEnforced === false ||
      lookupVerdict(rows, { ...question, isStranger }).kind === 'allow'
    );
  });
}

/** What a first process leaves, with one or both endpoints. */
function leave(specs: readonly object[]): MemoryDatapath {
  const twin = createMemoryDatapath();
  const first = openPolicyEngine({ twin, hasPeer: true });
  sayOwn(first);
  setPeer(first, CLIENT, 'client');
  setPeer(first, OTHER, 'other');
  first.synced('beta');
  specs.forEach((spec, index) => {
    setPolicy(first, spec, index === 0 ? 'server' : 'client');
    const endpoint = ENDPOINTS[index];
    if (endpoint !== undefined) first.engine.addEndpoint(endpoint);
  });
  first.engine.flush();
  return twin;
}

function sayOwn({ set }: PolicyEngine): void {
  set('identity 1', 1);
  set('identity 3', 2);
  set('address 10.1.0.1', 1);
  set('address 10.1.0.2', 3);
}

/** The next process, to which the own cluster says everything. */
function restart(twin: MemoryDatapath, specs: readonly object[]): PolicyEngine {
  const next = openPolicyEngine({ twin, hasPeer: true, isSynced: false, restored: [1, 2] });
  sayOwn(next);
  specs.forEach((spec, index) => void setPolicy(next, spec, index === 0 ? 'server' : 'client'));
  next.synced('alpha');
  next.engine.flush();
  return next;
}

const server = ({ engine }: PolicyEngine) =>
  engine.status().endpoints.find(({ endpointId }) => endpointId === 1);

async function endsKnowing(t: Test, next: PolicyEngine): Promise<void> {
  setPeer(next, CLIENT, 'client');
  next.engine.flush();
  t.same(allowed(next.twin), [CLIENT]);
  setPeer(next, OTHER, 'other');
  next.synced('beta');
  next.engine.flush();
  t.same(allowed(next.twin), [CLIENT]);
  t.same(
    next.engine.status().endpoints.filter(({ held }) => held),
    [],
  );
}

const CHANGES = [
  ['by labels', BY_LABELS, 'all but some', ALL_BUT],
  ['all but some', ALL_BUT, 'by labels', BY_LABELS],
  ['all but some', ALL_BUT, 'all but some', ALL_BUT],
  ['open but for some', OPEN_BUT, 'by labels', BY_LABELS],
  ['by labels', BY_LABELS, 'open but for some', OPEN_BUT],
] as const;
for (const [from, before, to, after] of CHANGES) {
  test(`a policy that becomes ${to} of ${from} while no agent is there`, async (t) => {
    const twin = leave([before]);
    t.same(allowed(twin), [CLIENT]);
    const next = restart(twin, [after]);
    t.same(allowed(twin), [CLIENT], 'the peer has not spoken');
    await endsKnowing(t, next);
  });
}

test('a peer that does not speak holds up policies for a while, and nobody new gets through then', async (t) => {
  const twin = leave([BY_LABELS]);
  const next = restart(twin, [ALL_BUT]);
  t.match(server(next), { held: true });
  next.later(14_000);
  next.engine.flush();
  t.match(server(next), { held: true });
  next.later(2000);
  next.engine.flush();
  t.match(server(next), { held: false });
  t.ok(
    twin.policy.rows().some(({ identity }) => identity === 0),
    'the new policy holds',
  );
  t.same(allowed(twin), [CLIENT], 'by the row that it had');
  await endsKnowing(t, next);
});

test('a peer that does not speak loses nothing under a policy that stays as it is', async (t) => {
  const twin = leave([ALL_BUT]);
  const next = restart(twin, [ALL_BUT]);
  next.later(60_000);
  next.engine.flush();
  t.match(server(next), { held: false });
  t.same(allowed(twin), [CLIENT]);
  setPeer(next, LATE_OTHER, 'other');
  setPeer(next, LATE_CLIENT, 'client');
  next.engine.flush();
  t.same(allowed(twin), [CLIENT, LATE_CLIENT]);
  next.synced('beta');
  next.engine.flush();
  t.same(allowed(twin), [LATE_CLIENT], 'who is not among all that it says is nobody');
});

test('whom only a process before knew passes under no rule that is new', async (t) => {
  const twin = leave([ALL_BUT, BY_LABELS]);
  t.same(allowed(twin, 2), [CLIENT]);
  const next = restart(twin, [ALL_BUT, ALL_BUT]);
  next.later(60_000);
  next.engine.flush();
  t.same(allowed(twin, 2), [CLIENT], 'by its own row');
  t.notOk(allowed(twin).includes(OTHER));
  setPeer(next, OTHER, 'other');
  setPeer(next, CLIENT, 'client');
  next.engine.flush();
  t.same(allowed(twin), [CLIENT]);
  t.same(allowed(twin, 2), [CLIENT]);
});

test('an identity is known once rows that deny it are written, and until they go', async (t) => {
  const twin = createMemoryDatapath();
  const mesh = openPolicyEngine({ twin, hasPeer: true });
  sayOwn(mesh);
  setPeer(mesh, CLIENT, 'client');
  setPolicy(mesh, ALL_BUT);
  const [endpoint] = ENDPOINTS;
  if (endpoint !== undefined) mesh.engine.addEndpoint(endpoint);
  mesh.engine.flush();
  t.same(allowed(twin), [CLIENT], 'nobody else is known');
  const written = (from: number, kind: string) =>
    twin.log
      .slice(from)
      .filter((write) => write.kind === kind && write.key.includes(String(OTHER)))
      .map(({ key }) => key.split('/')[0]);
  const first = twin.log.length;
  setPeer(mesh, OTHER, 'other');
  mesh.engine.flush();
  t.same(written(first, 'upsert'), ['1', '1', '0']);
  const second = twin.log.length;
  setPeer(mesh, OTHER, undefined);
  mesh.engine.flush();
  t.same(written(second, 'delete'), ['0', '1', '1']);
  t.same(allowed(twin), [CLIENT]);
});

test('without such a rule nobody is written down as known', async (t) => {
  const twin = leave([BY_LABELS]);
  t.same(twin.policy.rows().filter(isKnownRow), []);
});
