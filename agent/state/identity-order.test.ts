/** Promise 4: identities, and the addresses and endpoints that carry them, in whatever order they are heard of. */
import { test } from 'tap';
import { openPolicyEngine, type PolicyEngine } from '../testing/policy-engine.ts';
import { ENDPOINTS } from '../testing/policy-world.ts';
import { GATE_MS } from './address-gate.ts';

const GRACE_MS = 5000;
/** Identities 300 to 302 of alpha and beta; states 1 to 3 of an address. */
const [A, B] = [0x10000 + 300, 0x10000 + 301];
const [FAR_A, FAR_B, FAR_C] = [0x20000 + 300, 0x20000 + 301, 0x20000 + 302];

function addressOf({ twin }: PolicyEngine, prefix: string): number | undefined {
  return twin.ipcache.rows().find((row) => row.prefix === prefix)?.identity;
}

test('an address keeps a known identity until its new one is known', (t) => {
  const mesh = openPolicyEngine({ hasPeer: true });
  const { engine } = mesh;
  mesh.synced('beta');
  const far = (): number | undefined => addressOf(mesh, '10.2.0.1/32');
  mesh.set('node far', 1);
  mesh.set('address 10.2.0.1', 1);
  engine.flush();
  t.equal(far(), FAR_A, 'a first identity is taken though nobody knows it');
  mesh.set('identity 4', 2);
  mesh.set('address 10.2.0.1', 2);
  engine.flush();
  t.equal(far(), FAR_A, 'the next one is not known yet');
  mesh.set('identity 5', 2);
  engine.flush();
  t.equal(far(), FAR_B, 'and now it is');
  mesh.set('address 10.2.0.1', 3);
  engine.flush();
  t.equal(far(), FAR_B);
  mesh.later(GATE_MS);
  engine.flush();
  t.equal(far(), FAR_C, 'nobody says who that is: it is nobody');
  mesh.set('address 10.2.0.1', 1);
  mesh.set('address 10.2.0.1', 3);
  mesh.set('address 10.2.0.1', 0);
  engine.flush();
  t.equal(far(), undefined, 'gone is gone');
  t.end();
});

test('an endpoint sends under its former identity until others know the new one', (t) => {
  const mesh = openPolicyEngine({ identityGraceMs: GRACE_MS });
  const { engine, twin } = mesh;
  const [endpoint] = ENDPOINTS;
  if (endpoint === undefined) throw new Error('there are two');
  const sent = (): number | undefined => twin.endpoints.get('1')?.identity;
  mesh.set('identity 1', 3);
  mesh.set('identity 2', 1);
  mesh.set('address 10.1.0.1', 1);
  engine.addEndpoint(endpoint);
  t.equal(sent(), A, 'its first one at once');
  mesh.set('address 10.1.0.1', 2);
  engine.flush();
  t.equal(sent(), A);
  t.equal(engine.status().endpoints[0]?.identity, B, 'although it has another one');
  mesh.later(GRACE_MS - 1);
  engine.flush();
  t.equal(sent(), A);
  mesh.later(1);
  engine.flush();
  t.equal(sent(), B);
  mesh.set('address 10.1.0.1', 1);
  engine.flush();
  engine.removeEndpoint(1);
  mesh.later(GRACE_MS);
  engine.flush();
  t.equal(sent(), undefined, 'nor does it come back');
  t.end();
});
