import fc from 'fast-check';
import { test } from 'tap';
import { createDigestCheck, type DigestVerdict, type HeldState, toDigest } from './digest-check.ts';

const state = (count: number): HeldState => ({ count, sum: { high: 0, low: count * 7 } });
const digest = (count: number) => toDigest(state(count));

test('the digest of a list is compared at its revision', async (t) => {
  const check = createDigestCheck();
  t.same(check.published(5n, digest(3), state(0)), { kind: 'undecided' }, 'nothing was read yet');
  check.clear();
  check.synced(10n, state(3));
  t.same(check.published(10n, digest(3), state(3)), { kind: 'match', revision: 10n });
  t.match(
    check.published(10n, digest(4), state(3)),
    { kind: 'undecided' },
    'more of it may follow',
  );
  t.match(check.upTo(10n, state(3)), {
    kind: 'mismatch',
    held: { count: 3 },
    published: { count: 4 },
  });
});

test('a digest waits for its revision, and is compared with the state of that revision alone', async (t) => {
  const check = createDigestCheck();
  check.synced(10n, state(3));
  t.same(
    check.published(12n, digest(5), state(3)),
    { kind: 'undecided' },
    'it overtook its changes',
  );
  check.before(12n, state(3));
  t.same(check.before(12n, state(4)), { kind: 'undecided' }, 'one of two changes is applied');
  t.same(check.before(13n, state(5)), { kind: 'match', revision: 12n });
  check.before(14n, state(6));
  t.same(
    check.published(13n, digest(6), state(9)),
    { kind: 'match', revision: 13n },
    'it came late',
  );
  t.match(check.published(12n, digest(6), state(9)), { kind: 'mismatch' }, 'also a wrong one');
});

test('what was coalesced is not compared before it is whole again', async (t) => {
  const check = createDigestCheck();
  check.synced(10n, state(3));
  check.blur(14n);
  check.before(14n, state(3));
  t.same(check.published(12n, digest(8), state(4)), { kind: 'undecided' });
  t.same(check.upTo(12n, state(4)), { kind: 'undecided' }, 'that state never comes');
  t.same(check.published(14n, digest(5), state(4)), { kind: 'undecided' });
  t.same(check.before(15n, state(5)), { kind: 'match', revision: 14n });
});

test('a digest that tells the truth never mismatches, one that lies is found, in whatever order both come', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ changes: fc.integer({ min: 1, max: 3 }), delay: fc.nat(4) }), {
        minLength: 1,
        maxLength: 20,
      }),
      fc.option(fc.nat(19), { nil: undefined }),
      (revisions, lieAt) => {
        const check = createDigestCheck();
        const verdicts: DigestVerdict[] = [];
        let count = 0;
        check.synced(100n, state(0));
        // Each digest comes some revisions after its changes, as its watch lags.
        const due: { at: number; revision: bigint; published: number }[] = [];
        let total = 0;
        revisions.forEach(({ changes, delay }, index) => {
          total += changes;
          const published = index === lieAt ? total + 1 : total;
          due.push({ at: index + delay, revision: BigInt(101 + index), published });
        });
        const publish = (index: number): void => {
          for (const one of due.filter(({ at }) => at === index)) {
            verdicts.push(check.published(one.revision, digest(one.published), state(count)));
          }
        };
        revisions.forEach(({ changes }, index) => {
          const revision = BigInt(101 + index);
          for (let change = 0; change < changes; change += 1) {
            verdicts.push(check.before(revision, state(count)));
            count += 1;
          }
          publish(index);
        });
        for (let index = revisions.length; index < revisions.length + 5; index += 1) publish(index);
        verdicts.push(check.upTo(BigInt(100 + revisions.length), state(count)));
        const mismatches = verdicts.flatMap((one) =>
          one.kind === 'mismatch' ? [one.revision] : [],
        );
        const lie = lieAt === undefined ? -1n : BigInt(101 + lieAt);
        return mismatches.every((revision) => revision === lie);
      },
    ),
    { numRuns: 1000 },
  );
});
