/**
 * The failure that came first, where a disposal failed after it: the language wraps both, and its message tells neither
 * (`SuppressedError`, which Node 20 does not know by name).
 */
export function firstFailure(error: unknown): unknown {
  let first = error;
  while (first instanceof Error && first.name === 'SuppressedError' && 'suppressed' in first) {
    first = first.suppressed;
  }
  return first;
}
