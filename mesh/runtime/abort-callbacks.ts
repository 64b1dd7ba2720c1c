/** What many wait for at once: the end of one signal. */

interface Book {
  readonly callbacks: Set<() => void>;
  readonly listener: () => void;
}

const books = new WeakMap<AbortSignal, Book>();

/**
 * Calls `callback` once when `signal` aborts; not when it has already. The returned function takes that back, and must be
 * called when nobody waits any more. However many wait, the signal has one listener: calls and sleeps that go on at the same
 * time are no leak, and with a listener each Node would report one, and look through all of them to let go of one.
 */
export function onAbort(signal: AbortSignal, callback: () => void): () => void {
  if (signal.aborted) return () => undefined;
  const book = books.get(signal) ?? openBook(signal);
  // One entry each, also for a callback that is given twice.
  const entry = (): void => callback();
  book.callbacks.add(entry);
  return () => {
    if (!book.callbacks.delete(entry) || book.callbacks.size > 0) return;
    // A listener keeps a signal that was made of others alive as long as those.
    books.delete(signal);
    signal.removeEventListener('abort', book.listener);
  };
}

function openBook(signal: AbortSignal): Book {
  const callbacks = new Set<() => void>();
  const listener = (): void => {
    books.delete(signal);
    const all = [...callbacks];
    callbacks.clear();
    for (const callback of all) callback();
  };
  const book = { callbacks, listener };
  books.set(signal, book);
  signal.addEventListener('abort', listener, { once: true });
  return book;
}
