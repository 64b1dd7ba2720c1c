/** Several streams of batches as one, none of which waits for another. */

/**
 * Yields what each of `streams` yields, in the order in which it comes; each is asked for its next batch when its last one
 * was taken. Ends when all have ended. Rejects with the first failure, after ending the others.
 */
export async function* mergeBatches<T>(
  streams: readonly AsyncGenerator<T, void>[],
): AsyncGenerator<T, void> {
  const arrived: { readonly stream: AsyncGenerator<T, void>; readonly batch: T }[] = [];
  let running = streams.length;
  let failure: { readonly error: unknown } | undefined;
  let wake: () => void = () => undefined;
  const ask = (stream: AsyncGenerator<T, void>): void => {
    stream.next().then(
      ({ done, value }) => {
        if (done === true) running -= 1;
        else arrived.push({ stream, batch: value });
        wake();
      },
      (error: unknown) => {
        failure ??= { error };
        wake();
      },
    );
  };
  for (const stream of streams) ask(stream);
  try {
    while (running > 0 || arrived.length > 0) {
      if (failure !== undefined) throw failure.error;
      const next = arrived.shift();
      if (next === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      yield next.batch;
      ask(next.stream);
    }
  } finally {
    // A stream that is waiting ends by its own signal, which whoever made it aborts.
    for (const stream of streams) void stream.return().catch(() => undefined);
  }
}
