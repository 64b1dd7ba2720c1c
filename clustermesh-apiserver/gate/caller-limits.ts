/**
 * What one caller may have open at a time, so that none of them takes the gate from the others. A caller is a certificate: all
 * nodes of a Cilium peer share one, so the limits are those of a large cluster, not of a node.
 */
import { createSlots, type Slots } from './slots.ts';

/** Limits of one caller. */
export interface CallerLimits {
  readonly connections: number;
  /** Watch calls. */
  readonly streams: number;
  /** Watches on all of its streams. */
  readonly watches: number;
  /** Reads under way at etcd; further ones wait for their turn. */
  readonly calls: number;
  /** Reads that wait for their turn. */
  readonly waitingCalls: number;
  /** Bytes of events that it has not taken yet; above it nothing new begins. */
  readonly bytesInFlight: number;
}

/** Enough for a Cilium cluster of 5,000 nodes that share a certificate. */
export const DEFAULT_CALLER_LIMITS: CallerLimits = {
  connections: 8192,
  streams: 16_384,
  watches: 131_072,
  calls: 64,
  waitingCalls: 65_536,
  bytesInFlight: 256 * 1024 * 1024,
};

/** Which limit was met, as refusals count it. */
export type LimitReason = 'too-many-streams' | 'too-many-watches' | 'too-many-calls' | 'too-slow';

/** What one caller has open. */
export interface CallerUse {
  readonly streams: number;
  readonly watches: number;
  readonly bytesInFlight: number;
  /** Takes place for one more stream or watch; the function gives it back. */
  open(what: 'stream' | 'watch'): (() => void) | LimitReason;
  /** Takes place for a read, once there is some; the function gives it back. Rejects when `signal` aborts before. */
  call(signal: AbortSignal): Promise<(() => void) | LimitReason>;
  /** Counts bytes as on their way, or with a negative number as taken. */
  addBytes(bytes: number): void;
}

/** What all callers have open, by the fingerprint of their certificates. */
export interface CallerUses {
  of(fingerprint: string): CallerUse;
  /** As `of`, but undefined for one that has nothing open. */
  find(fingerprint: string): CallerUse | undefined;
  /** Callers that have anything open. */
  readonly size: number;
}

/** Makes the count. */
export function createCallerUses(limits: CallerLimits): CallerUses {
  const uses = new Map<string, CallerUse>();
  return {
    of(fingerprint) {
      const known = uses.get(fingerprint);
      if (known !== undefined) return known;
      const use = createCallerUse(limits, () => uses.delete(fingerprint));
      uses.set(fingerprint, use);
      return use;
    },
    find: (fingerprint) => uses.get(fingerprint),
    get size() {
      return uses.size;
    },
  };
}

function createCallerUse(limits: CallerLimits, onIdle: () => void): CallerUse {
  const slots: Slots = createSlots(limits.calls);
  const open = { stream: 0, watch: 0 };
  let calls = 0;
  let bytes = 0;

  const checkIdle = (): void => {
    if (open.stream + open.watch + calls === 0 && bytes <= 0) onIdle();
  };
  /** A function that does something once. */
  const once = (run: () => void): (() => void) => {
    let isDone = false;
    return () => {
      if (isDone) return;
      isDone = true;
      run();
      checkIdle();
    };
  };
  return {
    get streams() {
      return open.stream;
    },
    get watches() {
      return open.watch;
    },
    get bytesInFlight() {
      return bytes;
    },
    open(what) {
      const most = what === 'stream' ? limits.streams : limits.watches;
      if (open[what] >= most) return what === 'stream' ? 'too-many-streams' : 'too-many-watches';
      if (bytes > limits.bytesInFlight) return 'too-slow';
      open[what] += 1;
      return once(() => {
        open[what] -= 1;
      });
    },
    async call(signal) {
      if (calls - slots.taken >= limits.waitingCalls && slots.taken >= limits.calls) {
        return 'too-many-calls';
      }
      if (bytes > limits.bytesInFlight) return 'too-slow';
      calls += 1;
      try {
        const release = await slots.acquire(signal);
        return once(() => {
          calls -= 1;
          release();
        });
      } catch (error) {
        calls -= 1;
        checkIdle();
        throw error;
      }
    },
    addBytes(count) {
      bytes += count;
      if (count < 0) checkIdle();
    },
  };
}
