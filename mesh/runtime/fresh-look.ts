/** Asking somebody who looks at something now and then to look now. */
export interface FreshLook {
  /** Resolves when a look that began after this call has been taken in. Rejects when `signal` aborts before. */
  ask(signal: AbortSignal): Promise<void>;
  /** For who looks: called back when a look is asked for. */
  onAsked(ring: () => void): void;
  /** For who looks: to be called when a look begins; the function when it has been taken in. */
  begin(): () => void;
}

/** Makes the connection between who asks and who looks. */
export function createFreshLook(): FreshLook {
  let waiting = new Set<() => void>();
  let ring: () => void = () => undefined;
  return {
    ask(signal) {
      return new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason);
        const onAbort = (): void => reject(signal.reason);
        signal.addEventListener('abort', onAbort, { once: true });
        waiting.add(() => {
          signal.removeEventListener('abort', onAbort);
          resolve();
        });
        ring();
      });
    },
    onAsked(callback) {
      ring = callback;
    },
    begin() {
      const served = waiting;
      waiting = new Set();
      return () => {
        for (const resolve of served) resolve();
      };
    },
  };
}
