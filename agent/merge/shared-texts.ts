/** Texts that many rows have in common, each kept once and called by a number. */

/** Texts with numbers from 1, each with how often it is taken. */
export interface SharedTexts {
  /** Number of a text, which is kept until it was dropped as often as it was taken. */
  take(text: string): number;
  /** Number of a text that is taken, 0 for any other. */
  find(text: string): number;
  textOf(number: number): string | undefined;
  drop(number: number): void;
  readonly size: number;
}

const ASCII = /^[\0-\x7f]*$/;

/** Makes an empty set. */
export function createSharedTexts(): SharedTexts {
  const numbers = new Map<string, number>();
  const texts: (string | undefined)[] = [undefined];
  const counts: number[] = [0];
  const free: number[] = [];
  return {
    take(text) {
      const known = numbers.get(text);
      if (known !== undefined) {
        counts[known] = (counts[known] ?? 0) + 1;
        return known;
      }
      const number = free.pop() ?? texts.length;
      const copy = copyText(text);
      numbers.set(copy, number);
      texts[number] = copy;
      counts[number] = 1;
      return number;
    },
    find: (text) => numbers.get(text) ?? 0,
    textOf: (number) => texts[number],
    drop(number) {
      const text = texts[number];
      if (text === undefined) return;
      const count = (counts[number] ?? 0) - 1;
      counts[number] = count;
      if (count > 0) return;
      numbers.delete(text);
      texts[number] = undefined;
      free.push(number);
    },
    get size() {
      return numbers.size;
    },
  };
}

/** The same text in memory of its own: it may be a piece of a value that it was cut out of, and hold all of that. */
export function copyText(text: string): string {
  const encoding = ASCII.test(text) ? 'latin1' : 'utf16le';
  return Buffer.from(text, encoding).toString(encoding);
}
