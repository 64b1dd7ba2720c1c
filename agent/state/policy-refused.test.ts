/** A row that denies and cannot be written closes its endpoint. */
import { test } from 'tap';
import { policyReports } from '../api/status.ts';
import { openPolicyEngine } from '../testing/policy-engine.ts';
import { ENDPOINTS } from '../testing/policy-world.ts';

const OTHER = 2 * 65_536 + 300;

function openTwo() {
  const mesh = openPolicyEngine();
  const { set, engine } = mesh;
  for (const name of ['identity 1', 'address 10.1.0.1']) set(name, 1);
  // A server and a client.
  set('identity 3', 2);
  set('address 10.1.0.2', 3);
  // Lets the world in at 443.
  set('policy a', 3);
  for (const endpoint of ENDPOINTS) engine.addEndpoint(endpoint);
  engine.flush();
  const allows = (endpointId: number) =>
    mesh.twin.policy
      .rows()
      .filter((row) => row.endpointId === endpointId && row.verdict === 'allow').length;
  const endpoint = (wanted: number) =>
    engine.status().endpoints.find(({ endpointId }) => endpointId === wanted);
  return { ...mesh, allows, endpoint };
}

test('a row that denies and is refused lets nobody through, in red, until it is written', async (t) => {
  const { engine, twin, set, later, allows, endpoint } = openTwo();
  t.ok(allows(1) > 0 && allows(2) > 0);
  const others = allows(2);
  const isDeny = (row: object) => 'verdict' in row && row.verdict === 'deny';
  twin.policy.refuse = isDeny;
  // Everybody at 8080 but some, for servers alone.
  set('policy b', 9);
  set('identity 4', 3);
  engine.flush();
  t.equal(allows(1), 0, 'what was allowed before is closed, too');
  t.match(twin.endpoints.get('1'), { ingressEnforced: true });
  t.equal(allows(2), others, 'nobody else is closed');
  const status = engine.status();
  t.match(endpoint(1), { isRefused: true, isOverfull: false });
  t.match(endpoint(2), { isRefused: false });
  const reports = policyReports({ engine }, status);
  t.match(reports.find(({ policy }) => policy.endsWith('/b'))?.lastError, /endpoints 1 are closed/);

  later(200);
  engine.flush();
  t.equal(allows(1), 0, 'tried again in vain');
  t.match(endpoint(1), { isRefused: true });

  twin.policy.refuse = undefined;
  later(60_000);
  engine.flush();
  t.ok(allows(1) > 0);
  t.ok(twin.policy.rows().some((row) => row.identity === OTHER && row.verdict === 'deny'));
  t.match(endpoint(1), { isRefused: false });
});

test('a refused row of one identity that comes later closes its endpoint before that is known', async (t) => {
  const { engine, twin, set, later, allows } = openTwo();
  set('policy b', 9);
  engine.flush();
  const before = allows(1);
  t.ok(before > 0);
  twin.policy.refuse = (row) => row.endpointId === 1 && row.identity === OTHER;
  const written = twin.log.length;
  set('identity 4', 3);
  engine.flush();
  t.equal(allows(1), 0);
  const log = twin.log.slice(written).map(({ kind, key }) => `${kind} ${key.split('/')[0]}`);
  t.ok(log.indexOf('delete 1') < log.indexOf('upsert 0'), 'closed, then known');
  twin.policy.refuse = undefined;
  later(60_000);
  engine.flush();
  t.equal(allows(1), before);
});

test('an endpoint that goes while it is closed leaves nothing, and nothing fails then', async (t) => {
  const { engine, twin, set, later } = openTwo();
  twin.policy.refuse = (row) => row.endpointId === 1 && row.identity === OTHER;
  set('policy b', 9);
  set('identity 4', 3);
  engine.flush();
  t.ok((engine.status().tables[0]?.failed ?? 0) > 0);
  twin.policy.refuse = undefined;
  engine.removeEndpoint(1);
  later(60_000);
  engine.flush();
  t.same(
    twin.policy.rows().filter(({ endpointId }) => endpointId === 1),
    [],
  );
  t.match(engine.status().tables[0], { failed: 0 });
});
