/** Something to wait for that remembers that it rang; without a timer, since it is waited for with every write. */
export interface Wake {
  ring(): void;
  /** Resolves when it rings or has rung since the last wait. */
  wait(): Promise<void>;
}

/** Makes one that has not rung. */
export function createWake(): Wake {
  let rung = false;
  let resolveWait: (() => void) | undefined;
  return {
    ring() {
      rung = true;
      resolveWait?.();
      resolveWait = undefined;
    },
    async wait() {
      if (!rung) {
        await new Promise<void>((resolve) => {
          resolveWait = resolve;
        });
      }
      rung = false;
    },
  };
}
