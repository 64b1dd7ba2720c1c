/**
 * Names with a number each, for a million of them: who keeps something by name keeps it in arrays, at that number. IPv4
 * networks and whole numbers, of which a mesh mostly consists, are held as numbers, so that such a name costs no object.
 */

/** Names, each with a number from 0. Numbers of names that are gone are given again. */
export interface NameIndex {
  readonly size: number;
  /** Numbers so far are below it. */
  readonly used: number;
  /** Number of a name, -1 when it is not there. */
  find(name: string): number;
  /** Number of a name, which is added when it is not there. */
  add(name: string): number;
  /** Removes a name. Returns the number that it had, -1 when it was not there. */
  delete(name: string): number;
  /** Name of a number; undefined for one that is free. */
  nameOf(number: number): string | undefined;
  /** Names with their numbers, in no order. Removing one that was named is allowed meanwhile. */
  names(): Generator<string>;
  clear(): void;
}

/** What a name is held as: an IPv4 network by its length, 0 to 32, or one of these. */
const NUMBER = 33;
const TEXT = 254;
const FREE = 255;

const FIRST_CAPACITY = 32;
const MOST_DIGITS = 10;
const LARGEST = 0xffff_ffff;

const DOT = 46;
const SLASH = 47;
const ZERO = 48;

const NO_BITS = new Uint32Array(0);
const NO_FORMS = new Uint8Array(0);
const NO_TABLE = new Int32Array(0);

/** Makes an empty index. It takes no memory worth speaking of until there is a name. */
export function createNameIndex(): NameIndex {
  /** Strangers choose names: they must not know which ones fall into one place. */
  const seed = Math.floor(Math.random() * LARGEST);
  let bits: Uint32Array = NO_BITS;
  let forms: Uint8Array = NO_FORMS;
  /** Open addressing: number + 1 of a packed name, 0 for an empty place. A power of two long. */
  let table: Int32Array = NO_TABLE;
  let packed = 0;
  let used = 0;
  let size = 0;
  let free: number[] = [];
  let textNumbers = new Map<string, number>();
  /** Texts, by the bits of their number. */
  let texts: string[] = [];
  let freeTexts: number[] = [];

  const placeOf = (key: number, form: number): number => mix(key ^ seed ^ (form << 24));
  /** Where a packed name stands in the table, or the empty place where it would. */
  const seek = (key: number, form: number): number => {
    const mask = table.length - 1;
    let place = placeOf(key, form) & mask;
    for (;;) {
      const found = table[place] ?? 0;
      if (found === 0) return place;
      if (bits[found - 1] === key && forms[found - 1] === form) return place;
      place = (place + 1) & mask;
    }
  };
  const rehash = (): void => {
    table = new Int32Array(Math.max(FIRST_CAPACITY, table.length * 2));
    for (let number = 0; number < used; number += 1) {
      const form = forms[number] ?? FREE;
      if (form <= NUMBER) table[seek(bits[number] ?? 0, form)] = number + 1;
    }
  };
  /** Empties a place, and moves what stands behind it and belongs before it. */
  const vacate = (place: number): void => {
    const mask = table.length - 1;
    let hole = place;
    for (let next = (hole + 1) & mask; table[next] !== 0; next = (next + 1) & mask) {
      const number = (table[next] ?? 0) - 1;
      const home = placeOf(bits[number] ?? 0, forms[number] ?? FREE) & mask;
      if (((next - home) & mask) < ((next - hole) & mask)) continue;
      table[hole] = number + 1;
      hole = next;
    }
    table[hole] = 0;
  };
  const newNumber = (key: number, form: number): number => {
    const number = free.pop() ?? used;
    if (number === used) {
      used += 1;
      if (used > bits.length) {
        const capacity = Math.max(FIRST_CAPACITY, Math.ceil(bits.length * 1.5));
        const [nextBits, nextForms] = [new Uint32Array(capacity), new Uint8Array(capacity)];
        nextBits.set(bits);
        nextForms.set(forms);
        bits = nextBits;
        forms = nextForms;
      }
    }
    bits[number] = key;
    forms[number] = form;
    size += 1;
    return number;
  };
  const release = (number: number): number => {
    forms[number] = FREE;
    free.push(number);
    size -= 1;
    return number;
  };
  const nameOf = (number: number): string | undefined => {
    const form = number < used ? forms[number] : FREE;
    const key = bits[number] ?? 0;
    if (form === undefined || form === FREE) return undefined;
    if (form === TEXT) return texts[key];
    if (form === NUMBER) return String(key);
    return `${key >>> 24}.${(key >>> 16) & 255}.${(key >>> 8) & 255}.${key & 255}/${form}`;
  };

  return {
    get size() {
      return size;
    },
    get used() {
      return used;
    },
    find(name) {
      if (size === 0) return -1;
      if (!pack(name)) return textNumbers.get(name) ?? -1;
      return packed === 0 ? -1 : (table[seek(packedBits, packedForm)] ?? 0) - 1;
    },
    add(name) {
      if (!pack(name)) {
        const known = textNumbers.get(name);
        if (known !== undefined) return known;
        const place = freeTexts.pop() ?? texts.length;
        texts[place] = name;
        const number = newNumber(place, TEXT);
        textNumbers.set(name, number);
        return number;
      }
      if ((packed + 1) * 4 > table.length * 3) rehash();
      const place = seek(packedBits, packedForm);
      const known = table[place] ?? 0;
      if (known !== 0) return known - 1;
      packed += 1;
      const number = newNumber(packedBits, packedForm);
      table[place] = number + 1;
      return number;
    },
    delete(name) {
      if (size === 0) return -1;
      if (!pack(name)) {
        const number = textNumbers.get(name);
        if (number === undefined) return -1;
        textNumbers.delete(name);
        const place = bits[number] ?? 0;
        texts[place] = '';
        freeTexts.push(place);
        return release(number);
      }
      if (packed === 0) return -1;
      const place = seek(packedBits, packedForm);
      const number = (table[place] ?? 0) - 1;
      if (number === -1) return -1;
      vacate(place);
      packed -= 1;
      return release(number);
    },
    nameOf,
    *names() {
      for (let number = 0; number < used; number += 1) {
        const name = nameOf(number);
        if (name !== undefined) yield name;
      }
    },
    clear() {
      bits = NO_BITS;
      forms = NO_FORMS;
      table = NO_TABLE;
      packed = 0;
      used = 0;
      size = 0;
      free = [];
      textNumbers = new Map();
      texts = [];
      freeTexts = [];
    },
  };
}

/** What `pack` found: not returned, so that no object is made for each question. */
let packedBits = 0;
let packedForm = 0;

/** Whether a text is an IPv4 network or a whole number of 32 bits, written in the one way that `nameOf` writes it. */
function pack(text: string): boolean {
  const { length } = text;
  let value = 0;
  let dots = 0;
  let part = 0;
  let digits = 0;
  for (let index = 0; index < length; index += 1) {
    const code = text.charCodeAt(index);
    const digit = code - ZERO;
    if (digit >= 0 && digit <= 9) {
      if (digits > 0 && part === 0) return false;
      part = part * 10 + digit;
      digits += 1;
      if (digits > MOST_DIGITS) return false;
    } else if (digits === 0 || part > 255) {
      return false;
    } else if (code === DOT && dots < 3) {
      value = value * 256 + part;
      dots += 1;
      part = 0;
      digits = 0;
    } else if (code === SLASH && dots === 3) {
      packedBits = value * 256 + part;
      return packLength(text, index + 1);
    } else return false;
  }
  if (dots > 0 || digits === 0 || part > LARGEST) return false;
  packedBits = part;
  packedForm = NUMBER;
  return true;
}

function packLength(text: string, from: number): boolean {
  const first = text.charCodeAt(from) - ZERO;
  if (!(first >= 0 && first <= 9)) return false;
  if (text.length === from + 1) {
    packedForm = first;
    return true;
  }
  const second = text.charCodeAt(from + 1) - ZERO;
  if (text.length !== from + 2 || first === 0 || !(second >= 0 && second <= 9)) return false;
  packedForm = first * 10 + second;
  return packedForm <= 32;
}

/** Spreads 32 bits over 32 bits (the finalizer of MurmurHash3). */
function mix(value: number): number {
  let hash = value;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
