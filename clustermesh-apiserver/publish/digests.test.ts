/** Promise 2: what a reader compares with is what stands in etcd, at every revision. */
import fc from 'fast-check';
import { test } from 'tap';
import { KvError, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createDigest, decodeMeshDigest } from '../../mesh/wire/digest.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import {
  ipsPrefix,
  LOCAL_IPS_PREFIX,
  meshDigestKey,
  nodesPrefix,
  servicesPrefix,
} from '../../mesh/wire/keys.ts';
import { createDigests } from './digests.ts';
import { createSyncStore } from './sync-store.ts';

const ALPHA = parseClusterName('alpha');
const PREFIXES = [nodesPrefix(ALPHA), ipsPrefix(ALPHA), LOCAL_IPS_PREFIX, servicesPrefix(ALPHA)];
const logger = createLogger('test', { level: 'silent' });

/** Says whether a prefix's digest is right, wrong or not there, at one revision. */
async function judge(store: KvStore, prefix: string): Promise<'right' | 'wrong' | 'absent'> {
  const key = meshDigestKey(prefix);
  for (;;) {
    const found = await store.get(key);
    const { pairs } = await store.list(prefix);
    // What is published goes on meanwhile: only what stood still can be compared.
    if ((await store.get(key))?.modRevision !== found?.modRevision) continue;
    if (found === undefined) return 'absent';
    const digest = createDigest();
    for (const pair of pairs) digest.add(pair.key, pair.value);
    const { count, sum } = decodeMeshDigest(found.value, key);
    return count === digest.count && sum === digest.sum ? 'right' : 'wrong';
  }
}

test('a digest is right at every revision or not there, through failures, lost leases and restarts', async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('upsert' as const), which: fc.nat(11), value: fc.nat(3) }),
    fc.record({ kind: fc.constant('delete' as const), which: fc.nat(11) }),
    fc.record({
      kind: fc.constantFrom(
        'flush' as const,
        'fail' as const,
        'unknown' as const,
        'lost' as const,
        'restart' as const,
      ),
    }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const store = createMemoryStore();
      const direct = store.connect({ alwaysConnected: true });
      let failing: 'no' | 'before' | 'after' = 'no';
      // A write may be carried out although its answer never comes.
      const flaky: KvStore = {
        ...store,
        async transact(transaction, options) {
          const how = failing;
          failing = 'no';
          const answer = how === 'before' ? undefined : await store.transact(transaction, options);
          if (how === 'no' && answer !== undefined) return answer;
          throw new KvError('timeout', 'lost on the way', { retryable: true });
        },
      };
      const clock = createManualClock({ now: 1000 });
      const lease = await store.lease(900);
      const wanted = new Map<string, string>();
      let ending = new AbortController();
      const begin = async () => {
        const digests = createDigests({ cluster: ALPHA, lease });
        const sync = createSyncStore({ store: flaky, lease, digests, logger, clock });
        for (const [key, value] of wanted) sync.upsert(key, value);
        await sync.adopt(PREFIXES, ending.signal);
        return { sync, running: sync.run(ending.signal) };
      };
      let publisher = await begin();
      const keyOf = (which: number): string => `${PREFIXES[which % PREFIXES.length]}k${which}`;
      const flush = async (): Promise<void> => {
        let isDone = false;
        const done = publisher.sync.flushed(ending.signal).then(() => {
          isDone = true;
        });
        for (let turn = 0; turn < 200 && !isDone; turn += 1) await clock.advance(1000);
        await done;
      };
      const stop = async (): Promise<void> => {
        ending.abort();
        await publisher.running;
      };
      try {
        for (const one of steps) {
          if (one.kind === 'upsert') {
            wanted.set(keyOf(one.which), `v${one.value}`);
            publisher.sync.upsert(keyOf(one.which), `v${one.value}`);
          } else if (one.kind === 'delete') {
            wanted.delete(keyOf(one.which));
            publisher.sync.delete(keyOf(one.which));
          } else if (one.kind === 'flush') await flush();
          else if (one.kind === 'lost') store.faults.expireLease(lease);
          else if (one.kind === 'fail') failing = 'before';
          else if (one.kind === 'unknown') failing = 'after';
          else {
            await flush();
            await stop();
            ending = new AbortController();
            publisher = await begin();
          }
          for (const prefix of PREFIXES)
            if ((await judge(direct, prefix)) === 'wrong') return false;
        }
        await flush();
        publisher.sync.upsert('cilium/.heartbeat', 'now');
        await flush();
        const verdicts = await Promise.all(PREFIXES.map((prefix) => judge(direct, prefix)));
        return verdicts.every((verdict) => verdict === 'right');
      } finally {
        await stop();
      }
    }),
    { numRuns: 100 },
  );
});

test('while it is not known what stands in etcd there is no digest', async (t) => {
  const store = createMemoryStore();
  await using lease = await store.lease(900);
  const digests = createDigests({ cluster: ALPHA, lease });
  const [node] = PREFIXES;
  const change = { key: `${node}n1`, value: 'v' };
  t.same(
    digests.next([change]).map(({ kind }) => kind),
    ['delete', 'delete', 'delete', 'delete'],
    'before everything was looked at',
  );
  for (const prefix of PREFIXES) digests.adopted(prefix);
  t.same(
    digests.next([{ key: `${node}n2`, value: 'v' }]).map(({ kind }) => kind),
    ['put'],
  );
  digests.lost([change]);
  t.same(
    digests.next([{ key: 'cilium/.heartbeat', value: 'now' }]).map(({ kind }) => kind),
    ['delete', 'put', 'put', 'put'],
  );
  t.match(digests.next([change]), [{ kind: 'put', key: meshDigestKey(node!) }]);
  t.same(digests.next([{ key: 'cilium/.heartbeat', value: 'now' }]), [], 'nothing of ours changed');
});
