/**
 * Waits until every promise has ended, well or badly, and only then throws the first failure: what was begun side by side must
 * be over before anybody cleans up behind it. `onFailure` is called at once, to make the others end early.
 */
export async function settleAll<T extends readonly unknown[]>(
  promises: { readonly [K in keyof T]: Promise<T[K]> },
  onFailure: (reason: unknown) => void,
): Promise<T> {
  let failure: { readonly reason: unknown } | undefined;
  await Promise.allSettled(
    promises.map((promise) =>
      promise.catch((reason: unknown) => {
        if (failure === undefined) onFailure(reason);
        failure ??= { reason };
      }),
    ),
  );
  if (failure !== undefined) throw failure.reason;
  return Promise.all(promises) as Promise<T>;
}
