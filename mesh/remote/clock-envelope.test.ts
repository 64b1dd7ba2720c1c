import fc from 'fast-check';
import { test } from 'tap';
import { createClockEnvelope } from './clock-envelope.ts';

/** A publisher whose clock differs from our monotonic one, and whose stamps take their time. */
function createPublisher(options: { offset: number }) {
  const envelope = createClockEnvelope();
  let now = 1000;
  let { offset } = options;
  return {
    envelope,
    get now() {
      return now;
    },
    /** Sets the publisher's clock by so much. */
    set(by: number): void {
      offset += by;
    },
    /** Lets a stamp be written after `after`, arriving `way` later. Stamps arrive in their order. */
    stamp({ after = 1000, way }: { after?: number; way: number }) {
      now += after;
      return envelope.add({ at: Math.floor(now + offset), arrival: now + way });
    },
  };
}

test('three stamps tell how far apart the clocks are, half a round trip taken off', (t) => {
  const publisher = createPublisher({ offset: 5000 });
  publisher.envelope.addRoundTrip(9);
  publisher.envelope.addRoundTrip(4);
  t.equal(publisher.stamp({ way: 12 }), 'wait');
  t.equal(publisher.stamp({ way: 2 }), 'wait');
  t.equal(publisher.envelope.offset, undefined, 'two are too few');
  t.equal(publisher.stamp({ way: 3 }), 'good');
  t.equal(publisher.envelope.offset, -5000 + 2 - 2);
  t.equal(
    publisher.envelope.uncertainty,
    2 + 1,
    'half a round trip, and what the two fastest differ by',
  );
  t.equal(publisher.envelope.roundTrip, 4);
  t.end();
});

test('a clock that is set forward is known at the next stamp', (t) => {
  const publisher = createPublisher({ offset: 0 });
  for (let count = 0; count < 10; count += 1) publisher.stamp({ way: 2 });
  publisher.set(3_600_000);
  t.equal(publisher.stamp({ way: 2 }), 'step');
  t.equal(publisher.envelope.offset, -3_600_000 + 2);
  t.equal(publisher.envelope.steps, 1);
  t.end();
});

test('a clock that is set back is known at the next stamp when its time runs backwards', (t) => {
  const publisher = createPublisher({ offset: 0 });
  for (let count = 0; count < 10; count += 1) publisher.stamp({ way: 2 });
  publisher.set(-3_600_000);
  t.equal(publisher.stamp({ way: 2 }), 'step');
  t.equal(publisher.envelope.offset, undefined, 'and nothing is said until it is known anew');
  publisher.stamp({ way: 2 });
  publisher.stamp({ way: 2 });
  t.equal(publisher.envelope.offset, 3_600_000 + 2);
  t.equal(publisher.envelope.steps, 1);
  t.end();
});

test('a clock that is set back by less than a stamp lasts is told from a delay by its evenness', (t) => {
  const publisher = createPublisher({ offset: 0 });
  for (let count = 0; count < 10; count += 1) publisher.stamp({ way: 2 });
  publisher.set(-600);
  const verdicts = Array.from({ length: 11 }, () => publisher.stamp({ way: 2 }));
  t.same(verdicts, [...Array.from({ length: 10 }, () => 'wait'), 'step']);
  t.equal(publisher.envelope.offset, 600 + 2);
  t.end();
});

test('stamps that come late are late, whether they come back to normal or not', (t) => {
  const backToNormal = createPublisher({ offset: 0 });
  for (let count = 0; count < 10; count += 1) backToNormal.stamp({ way: 2 });
  t.equal(backToNormal.stamp({ way: 900 }), 'wait');
  t.equal(backToNormal.stamp({ way: 700 }), 'wait');
  t.equal(backToNormal.stamp({ way: 3 }), 'good');
  t.equal(backToNormal.envelope.offset, 2);

  const backlog = createPublisher({ offset: 0 });
  for (let count = 0; count < 10; count += 1) backlog.stamp({ way: 2 });
  const verdicts = Array.from({ length: 70 }, (_, index) =>
    backlog.stamp({ way: 300 + index * 40 }),
  );
  t.ok(verdicts.includes('good'), 'after a minute it is what it seems');
  t.notOk(verdicts.includes('step'));
  t.equal(backlog.envelope.offset, 2);
  t.equal(backlog.envelope.steps, 0);
  t.end();
});

test('a way that has become long for calls, too, is no clock that was set', (t) => {
  const publisher = createPublisher({ offset: 0 });
  publisher.envelope.addRoundTrip(2);
  for (let count = 0; count < 10; count += 1) publisher.stamp({ way: 2 });
  publisher.envelope.addRoundTrip(1200);
  const verdicts = Array.from({ length: 30 }, () => publisher.stamp({ way: 602 }));
  t.notOk(verdicts.includes('step'));
  t.end();
});

test('clocks that drift apart are followed', (t) => {
  const publisher = createPublisher({ offset: 0 });
  for (let count = 0; count < 2000; count += 1) {
    // 500 parts in a million: the worst that time daemons correct by.
    publisher.set(-0.5);
    publisher.stamp({ way: 2 });
  }
  const error = Math.abs((publisher.envelope.offset ?? 0) - (1000 + 2));
  t.ok(error <= 160, `off by ${error} ms, five minutes of drift at most`);
  t.equal(publisher.envelope.steps, 0);
  t.end();
});

test('the difference is right within its uncertainty after any history of steps', (t) => {
  const event = fc.record({
    step: fc.oneof(
      { weight: 8, arbitrary: fc.constant(0) },
      { weight: 1, arbitrary: fc.integer({ min: -7_200_000, max: 7_200_000 }) },
    ),
    after: fc.integer({ min: 900, max: 1500 }),
    way: fc.integer({ min: 1, max: 40 }),
  });
  fc.assert(
    fc.property(
      fc.integer({ min: -1e9, max: 1e9 }),
      fc.array(event, { maxLength: 60 }),
      (offset, events) => {
        const publisher = createPublisher({ offset });
        publisher.envelope.addRoundTrip(4);
        let setBy = offset;
        for (const { step, after, way } of events) {
          publisher.set(step);
          setBy += step;
          publisher.stamp({ after, way });
        }
        // Long enough without a step for every kind of step to be told.
        for (let count = 0; count < 70; count += 1) publisher.stamp({ way: 2 + (count % 3) });
        const found = publisher.envelope.offset ?? Number.NaN;
        const error = Math.abs(found + setBy);
        const allowed = 200 + (publisher.envelope.uncertainty ?? Number.NaN);
        return error <= allowed;
      },
    ),
    { numRuns: 300 },
  );
  t.pass('all histories');
  t.end();
});
