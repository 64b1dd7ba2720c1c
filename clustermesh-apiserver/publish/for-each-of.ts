/** Work on many items, some at a time. */

/** Calls of etcd at the same time, where there are many to make. */
const CONCURRENT_CALLS = 8;

/** Runs `work` for each item, some at a time. Rejects with the first failure, when all that began have ended. */
export async function forEachOf<T>(
  items: readonly T[],
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = [...items];
  queue.reverse();
  const worker = async (): Promise<void> => {
    while (queue.length > 0) {
      const item = queue.pop();
      if (item === undefined) return;
      try {
        await work(item);
      } catch (error) {
        queue.length = 0;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(
    Array.from({ length: Math.min(CONCURRENT_CALLS, items.length) }, worker),
  );
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}
