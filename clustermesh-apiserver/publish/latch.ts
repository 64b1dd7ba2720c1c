/** Something that happens once, and may be waited for. */
export interface Latch {
  readonly isOpen: boolean;
  open(): void;
  /** Resolves when it is open; rejects when `signal` aborts before. */
  opened(signal: AbortSignal): Promise<void>;
}

/** Makes a latch that is shut. */
export function createLatch(): Latch {
  const waiting = new Set<() => void>();
  let isOpen = false;
  return {
    get isOpen() {
      return isOpen;
    },
    open() {
      isOpen = true;
      for (const resolve of waiting) resolve();
      waiting.clear();
    },
    opened(signal) {
      if (isOpen) return Promise.resolve();
      return new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason);
        const onAbort = (): void => {
          waiting.delete(done);
          reject(signal.reason);
        };
        const done = (): void => {
          signal.removeEventListener('abort', onAbort);
          resolve();
        };
        waiting.add(done);
        signal.addEventListener('abort', onAbort, { once: true });
      });
    },
  };
}
