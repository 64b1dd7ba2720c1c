/** Addresses whose pods are gone, and that are to go a little later. */
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';

/**
 * How long an address outlives its pod, in milliseconds: Services let go of it first, so that nobody is sent where nobody is
 * known. Their backends may come from another controller, and readers follow them by another watch.
 */
const FAREWELL_MS = 500;
/** How long nothing is looked at while nothing is told: whatever comes rings. */
const IDLE_MS = 60_000;

/** Addresses on their way out. */
export interface Farewells {
  /** An address goes in a while; nothing when it is about to already. */
  begin(address: IpAddress): void;
  /** It is wanted again. */
  cancel(address: IpAddress): void;
  /** Withdraws each at its time, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Makes an empty book of them; `withdraw` is called when an address is to go. */
export function createFarewells(options: {
  readonly withdraw: (address: IpAddress) => void;
  readonly clock: Clock;
}): Farewells {
  const { withdraw, clock } = options;
  /** When each is to go, by the monotonic clock: the first is the next. */
  const leaving = new Map<IpAddress, number>();
  const bell = createBell();
  return {
    begin(address) {
      if (leaving.has(address)) return;
      if (leaving.size === 0) bell.ring();
      leaving.set(address, clock.monotonic() + FAREWELL_MS);
    },
    cancel: (address) => void leaving.delete(address),
    async run(signal) {
      signal.addEventListener('abort', bell.ring, { once: true });
      while (!signal.aborted) {
        bell.clear();
        const [next] = leaving;
        const leftMs = next === undefined ? IDLE_MS : next[1] - clock.monotonic();
        if (next === undefined || leftMs > 0) {
          await bell.wait(leftMs, clock);
          continue;
        }
        leaving.delete(next[0]);
        withdraw(next[0]);
      }
    },
  };
}
