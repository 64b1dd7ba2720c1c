import { WireError } from '../wire-error.ts';

/** The WireError that a call throws, for a test to look at. Throws when the call throws nothing, or something else. */
export function refusalOf(call: () => unknown): WireError {
  let result: unknown;
  try {
    result = call();
  } catch (error) {
    if (error instanceof WireError) return error;
    throw new Error(`expected a WireError: ${String(error)}`, { cause: error });
  }
  throw new Error(`expected a WireError, but the call gave ${JSON.stringify(result)}`);
}
