/** Colours and symbols for terminals; elsewhere words alone. Pure. */

/** Gives a word the look of what it says. */
export interface Paint {
  good(text: string): string;
  warn(text: string): string;
  bad(text: string): string;
  strong(text: string): string;
}

/** Makes one; without colours texts stay as they are. */
export function createPaint(hasColours: boolean): Paint {
  const paint =
    (code: string, symbol = '') =>
    (text: string): string =>
      hasColours ? `\u001b[${code}m${symbol}${text}\u001b[0m` : text;
  return {
    good: paint('32', '✔ '),
    warn: paint('33', '! '),
    bad: paint('31', '✘ '),
    strong: paint('1'),
  };
}
