/** Promise 4: what policies come to does not depend on how it came about. */
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { test } from 'tap';
import { heldPolicy, openPolicyEngine } from '../testing/policy-engine.ts';
import { CHANGEABLES, ENDPOINTS } from '../testing/policy-world.ts';
import { GATE_MS } from './address-gate.ts';

const RUNS = process.env.ISTHMUS_LONG === 'true' ? 3000 : 150;
const NAMES = Object.keys(CHANGEABLES);

/** A step: something gets a state (any number is one), or an endpoint comes or goes, or time passes; then, maybe, a write. */
const step = fc.record({
  what: fc.oneof(
    { weight: 12, arbitrary: fc.nat(NAMES.length - 1) },
    {
      weight: 2,
      arbitrary: fc.constantFrom<'endpoint 0' | 'endpoint 1'>('endpoint 0', 'endpoint 1'),
    },
    { weight: 1, arbitrary: fc.constant<'late'>('late') },
  ),
  state: fc.nat(1000),
  flush: fc.boolean(),
});

/** Two endpoints of one identity get the same named ports, and then a policy about these. */
const SAME_NAMED_PORTS = ['address 10.1.0.1', 'address 10.1.0.2', 'policy a'].map((name) => ({
  what: NAMES.indexOf(name),
  state: 4,
  flush: true,
}));

test('what changes one by one comes to the same as all of it at once', async (t) => {
  let rows = 0;
  const result = fc.check(
    fc.property(fc.array(step, { minLength: 5, maxLength: 60 }), (steps) => {
      const states = new Map<string, number>();
      const present = new Set<number>();
      const grown = openPolicyEngine();
      // Not from nothing, or few of the policies would be about anybody.
      for (const name of NAMES) {
        states.set(name, 1);
        grown.set(name, 1);
      }
      for (const [index, endpoint] of ENDPOINTS.entries()) {
        present.add(index);
        grown.engine.addEndpoint(endpoint);
      }
      for (const { what, state, flush } of steps) {
        if (what === 'late') grown.later(11 * 60_000);
        else if (typeof what === 'string') {
          const index = what === 'endpoint 0' ? 0 : 1;
          const endpoint = ENDPOINTS[index];
          if (endpoint === undefined) return;
          if (present.delete(index)) grown.engine.removeEndpoint(endpoint.endpointId);
          else {
            present.add(index);
            grown.engine.addEndpoint(endpoint);
          }
        } else {
          const name = NAMES[what] ?? '';
          const wanted = state % ((CHANGEABLES[name]?.states ?? 0) + 1);
          states.set(name, wanted);
          grown.set(name, wanted);
        }
        if (flush) grown.engine.flush();
      }
      grown.engine.flush();
      // Addresses wait no longer for identities that nobody tells.
      grown.later(GATE_MS);
      grown.engine.flush();

      const fresh = openPolicyEngine();
      for (const [name, state] of states) if (state > 0) fresh.set(name, state);
      for (const index of present) {
        const endpoint = ENDPOINTS[index];
        if (endpoint !== undefined) fresh.engine.addEndpoint(endpoint);
      }
      fresh.engine.flush();
      const wanted = heldPolicy(fresh.twin);
      rows += wanted.rows.length;
      const found = heldPolicy(grown.twin);
      if (isDeepStrictEqual(found, wanted)) return;
      throw new Error(JSON.stringify({ found, wanted }, null, 1));
    }),
    { numRuns: RUNS, examples: [[SAME_NAMED_PORTS]] },
  );
  t.equal(result.failed, false, `seed ${result.seed}`, {
    counterexample: result.counterexample,
    error: String(result.errorInstance),
  });
  t.ok(rows > RUNS * 2, `there was something to compare: ${rows} rows`);
});
