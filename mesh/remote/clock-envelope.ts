/**
 * How far apart two clusters' clocks are, from nothing but stamps: a stamp that travels fast arrives at (its time +
 * difference + shortest way), all others later. So the lowest of (arrival − time) over a while is the difference plus
 * the shortest way, and the shortest way is about half a round trip. Arrivals are read from the monotonic clock: a jump
 * of our own wall clock changes nothing. Pure: it is told the time.
 */

/** How long a sample counts. Long enough for heartbeats a minute apart, short enough for clocks that drift. */
const WINDOW_MS = 300_000;
const SLOTS = 10;
const SLOT_MS = WINDOW_MS / SLOTS;
/** Samples before the lowest of them is believed. */
const ENOUGH = 3;
/** How far above the lowest a sample is set aside: it came late, or the publisher's clock was set back. */
const SUSPECT_MS = 200;
/** So many samples, this long and as even as this, are no delay: a backlog grows or shrinks. */
const STEP_SAMPLES = 5;
const STEP_MS = 10_000;
const STEP_EVENNESS = 0.1;
const STEP_EVENNESS_MS = 50;
/** A time before the one of an earlier stamp by this much is a clock that was set back. Two replicas may differ a little. */
const BACKWARD_MS = 250;
/** A sample below all others by this much is a clock that was set forward. */
const FORWARD_MS = 1000;
/** After this long, samples that are late and uneven are what they seem: late. */
const SUSPECT_AT_MOST_MS = 60_000;
const SUSPECTS = 128;
const ROUND_TRIPS = 8;

/**
 * What a sample turned out to be: `wait` until others tell, `good`, or `step`: the clocks are not as they were thought to
 * be, so what was measured by earlier stamps cannot be told any more.
 */
export type SampleVerdict = 'wait' | 'good' | 'step';

/** The clocks of two clusters. */
export interface ClockEnvelope {
  /** Takes a stamp: its time by the publisher's wall clock, and when it arrived by our monotonic one. */
  add(sample: { readonly at: number; readonly arrival: number }): SampleVerdict;
  /** A call to the same server took this long, there and back. */
  addRoundTrip(milliseconds: number): void;
  /** Our monotonic time less the publisher's wall clock, as if stamps took no time; undefined while not known. */
  readonly offset: number | undefined;
  /** Milliseconds by which `offset` may be wrong either way; undefined while it is not known. */
  readonly uncertainty: number | undefined;
  /** Shortest of the latest round trips in milliseconds; undefined before the first. */
  readonly roundTrip: number | undefined;
  /** How often the publisher's clock was set, as far as it showed. */
  readonly steps: number;
}

interface Slot {
  readonly number: number;
  /** The two lowest samples. */
  lowest: number;
  second: number;
  count: number;
}

/** Makes an envelope that knows nothing. */
export function createClockEnvelope(): ClockEnvelope {
  let slots: Slot[] = [];
  let suspects: { readonly sample: number; readonly arrival: number }[] = [];
  let roundTrips: number[] = [];
  let latestAt = Number.NEGATIVE_INFINITY;
  let steps = 0;

  const lowest = (): number => Math.min(...slots.map((slot) => slot.lowest));
  const count = (): number => slots.reduce((sum, slot) => sum + slot.count, 0);
  const roundTrip = (): number | undefined =>
    roundTrips.length === 0 ? undefined : Math.min(...roundTrips);

  const keep = (sample: number, arrival: number): void => {
    const number = Math.floor(arrival / SLOT_MS);
    slots = slots.filter((slot) => slot.number > number - SLOTS);
    let slot = slots.at(-1);
    if (slot?.number !== number) {
      slot = { number, lowest: sample, second: Number.POSITIVE_INFINITY, count: 0 };
      slots.push(slot);
    } else if (sample < slot.lowest) {
      slot.second = slot.lowest;
      slot.lowest = sample;
    } else {
      slot.second = Math.min(slot.second, sample);
    }
    slot.count += 1;
  };

  /** What was known is of another clock setting: begins anew with the samples that are of this one. */
  const restart = (samples: typeof suspects): void => {
    steps += 1;
    slots = [];
    suspects = [];
    for (const { sample, arrival } of samples) keep(sample, arrival);
  };

  /** The latest suspects, as few as are enough to judge by. */
  const latestSuspects = (): typeof suspects => {
    const latest = suspects.at(-1)?.arrival ?? 0;
    const start = suspects.findLastIndex(
      ({ arrival }, index) =>
        suspects.length - index >= STEP_SAMPLES && latest - arrival >= STEP_MS,
    );
    return start < 0 ? [] : suspects.slice(start);
  };
  const isStep = (recent: typeof suspects): boolean => {
    if (recent.length === 0) return false;
    const values = recent.map(({ sample }) => sample);
    const low = Math.min(...values);
    const height = low - lowest();
    const isEven = Math.max(...values) - low <= Math.max(STEP_EVENNESS_MS, height * STEP_EVENNESS);
    // A way that has become long is long for calls, too.
    const isFar = (roundTrips.at(-1) ?? 0) / 2 > height / 2;
    return isEven && !isFar;
  };

  return {
    add({ at, arrival }) {
      const sample = arrival - at;
      const isBackward = at < latestAt - BACKWARD_MS;
      latestAt = at;
      if (isBackward) {
        restart([{ sample, arrival }]);
        return 'step';
      }
      const height = slots.length === 0 ? 0 : sample - lowest();
      if (height <= SUSPECT_MS) {
        // Earlier than ever by much: the clock was set forward, or the way was long before. The new lowest says it all.
        if (height < -FORWARD_MS && count() >= ENOUGH) steps += 1;
        suspects = [];
        keep(sample, arrival);
        if (height < -SUSPECT_MS) return 'step';
        return count() < ENOUGH ? 'wait' : 'good';
      }
      suspects = [...suspects, { sample, arrival }].slice(-SUSPECTS);
      const recent = latestSuspects();
      if (isStep(recent)) {
        restart(recent);
        return 'step';
      }
      const [first] = suspects;
      const isUneven = suspects.length >= STEP_SAMPLES && recent.length > 0;
      if (!isUneven || arrival - (first?.arrival ?? arrival) < SUSPECT_AT_MOST_MS) return 'wait';
      suspects = [];
      return 'good';
    },
    addRoundTrip(milliseconds) {
      roundTrips = [...roundTrips, Math.max(0, milliseconds)].slice(-ROUND_TRIPS);
    },
    get offset() {
      return count() < ENOUGH ? undefined : lowest() - (roundTrip() ?? 0) / 2;
    },
    get uncertainty() {
      if (count() < ENOUGH) return undefined;
      const low = lowest();
      const others = slots.flatMap((slot) => [slot.second, slot.lowest]).filter((s) => s > low);
      // Equal samples agree wholly.
      const spread = others.length === 0 ? 0 : Math.min(...others) - low;
      return (roundTrip() ?? 0) / 2 + spread;
    },
    get roundTrip() {
      return roundTrip();
    },
    get steps() {
      return steps;
    },
  };
}
