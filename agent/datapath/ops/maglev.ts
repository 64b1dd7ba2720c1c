/**
 * Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): a table of prime size, each entry of which names a backend.
 * Each backend has a permutation of the entries of its own, and backends take turns in taking the next entry of theirs
 * that is free: shares are even, and where one backend goes, few entries of the others change hands.
 */

/** Table sizes that may be chosen, as in Cilium's `--bpf-lb-maglev-table-size`: primes. */
export const MAGLEV_TABLE_SIZES = [
  251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071,
] as const;

/** Size of a table in entries. */
export type MaglevTableSize = (typeof MAGLEV_TABLE_SIZES)[number];

/** Cilium's default: shares are even within 1 % up to some 160 backends. */
export const DEFAULT_MAGLEV_TABLE_SIZE: MaglevTableSize = 16_381;

/** Seeds of the two hashes that make a permutation. Kept for ever: nodes of different versions must agree. */
const OFFSET_SEED = 0x6d65_7368;
const SKIP_SEED = 0x6973_7468;

const FREE = 0xffff_ffff;

/**
 * Fills a table of `size` entries with indexes into `names`. The result depends on the set of names alone when they are
 * in a fixed order: sort them first, so that all nodes agree. Without names every entry is 0xffffffff.
 */
export function fillMaglevTable(names: readonly string[], size: MaglevTableSize): Uint32Array {
  const table = new Uint32Array(size).fill(FREE);
  if (names.length === 0) return table;
  const positions = Uint32Array.from(names, (name) => hashText(name, OFFSET_SEED) % size);
  const skips = Uint32Array.from(names, (name) => (hashText(name, SKIP_SEED) % (size - 1)) + 1);
  for (let filled = 0; ; ) {
    for (let index = 0; index < names.length; index += 1) {
      const skip = skips[index] ?? 1;
      let position = positions[index] ?? 0;
      while (table[position] !== FREE) {
        position += skip;
        if (position >= size) position -= size;
      }
      table[position] = index;
      positions[index] = position;
      filled += 1;
      if (filled === size) return table;
    }
  }
}

/**
 * Size of the table that so many backends get, 0: none is needed, or possible. One backend gets everything without a
 * table, and more backends than entries cannot all stand in one.
 */
export function maglevSizeFor(backends: number, size: MaglevTableSize): MaglevTableSize | 0 {
  return backends >= 2 && backends <= size ? size : 0;
}

/** MurmurHash3, 32 bits, over a text's UTF-16 units. */
function hashText(text: string, seed: number): number {
  let hash = seed;
  for (let index = 0; index < text.length; index += 1) {
    const part = Math.imul(text.charCodeAt(index), 0xcc9e_2d51);
    hash ^= Math.imul((part << 15) | (part >>> 17), 0x1b87_3593);
    hash = (Math.imul((hash << 13) | (hash >>> 19), 5) + 0xe654_6b64) | 0;
  }
  hash ^= text.length;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
