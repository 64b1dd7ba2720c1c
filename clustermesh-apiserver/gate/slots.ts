/** A number of places that are taken in turn. */
export interface Slots {
  readonly taken: number;
  /** Resolves to the function that gives the place back, once there is one. Rejects when `signal` aborts before. */
  acquire(signal: AbortSignal): Promise<() => void>;
}

/** Makes `count` places. */
export function createSlots(count: number): Slots {
  const waiting = new Set<() => void>();
  let taken = 0;

  const take = (): (() => void) => {
    taken += 1;
    let isReturned = false;
    return () => {
      if (isReturned) return;
      isReturned = true;
      taken -= 1;
      const [next] = waiting;
      next?.();
    };
  };
  return {
    get taken() {
      return taken;
    },
    acquire(signal) {
      if (signal.aborted) return Promise.reject(signal.reason);
      if (taken < count) return Promise.resolve(take());
      return new Promise((resolve, reject) => {
        const onTurn = (): void => {
          waiting.delete(onTurn);
          signal.removeEventListener('abort', onAbort);
          resolve(take());
        };
        const onAbort = (): void => {
          waiting.delete(onTurn);
          reject(signal.reason);
        };
        waiting.add(onTurn);
        signal.addEventListener('abort', onAbort, { once: true });
      });
    },
  };
}
