/** Mutations of bytes for fuzzing: blind ones, and ones that know JSON, keys and protobuf well enough to come far. */

/** A source of numbers that a seed repeats. */
export interface Random {
  /** A whole number of 0 to `below` - 1. */
  below(below: number): number;
  pick<T>(list: readonly T[]): T;
}

/** Text that is special to somebody: JSON, JavaScript, Go, addresses, keys. */
const TOKENS: readonly string[] = [
  ...['null', 'true', 'false', '0', '-0', '-1', '1', '255', '256', '511', '512', '65535', '65536'],
  ...[
    '16777215',
    '16777216',
    '4294967295',
    '4294967296',
    '9007199254740993',
    '18446744073709551616',
  ],
  ...[
    '1e3',
    '1E400',
    '-1e-400',
    '0.5',
    '00',
    '+1',
    'NaN',
    '1'.repeat(400),
    `${'9'.repeat(30)}.${'9'.repeat(30)}`,
  ],
  ...[
    '""',
    '"a"',
    '[]',
    '{}',
    '[[]]',
    '{"":{}}',
    '[null]',
    '{"a":null}',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udfff\\ud800"',
  ],
  ...[
    '"__proto__"',
    '"constructor"',
    '"toString"',
    '"hasOwnProperty"',
    '{"__proto__":{"Name":"x"}}',
    '{"__proto__":null}',
  ],
  ...[
    '{"toString":1,"valueOf":1}',
    '{"length":1e9}',
    '{"then":"x"}',
    '"\\u003c\\u2028"',
    `"${'x'.repeat(3000)}"`,
  ],
  ...[
    '"10.1.2.3"',
    '"10.1.2.3/16"',
    '"010.1.2.3"',
    '"0x7f.1"',
    '"::"',
    '"::1"',
    '"::ffff:10.0.0.1"',
    '"fe80::1%eth0"',
  ],
  ...[
    '"2001:DB8::1"',
    '"1:2:3:4:5:6:7:8:9"',
    '"0.0.0.0/0"',
    '"::/0"',
    '"10.0.0.0/33"',
    '"////AA=="',
    '"//8A/w=="',
    '"AAAA"',
  ],
  ...[
    '"default"',
    '"-a"',
    `"${'a'.repeat(33)}"`,
    '"2026-02-30T00:00:00Z"',
    '"0000-01-01T00:00:00+23:59"',
    '"9999-12-31T23:59:59-23:59"',
  ],
  ...[
    '"$host"',
    '"k8s:"',
    ';',
    '=',
    ':',
    '$',
    '/',
    '//',
    '..',
    '\0',
    '%00',
    '\ufeff',
    '\u2028',
    ',',
    '"',
    '\\',
    '[',
    ']',
    '{',
    '}',
  ],
];
const BYTES: readonly number[] = [
  0, 1, 2, 7, 8, 10, 0x22, 0x2f, 0x3b, 0x3d, 0x5b, 0x7b, 0x7f, 0x80, 0xc0, 0xed, 0xf8, 0xff,
];
const MAX_BYTES = 64 * 1024;
/** A token of JSON, or a part of a key or of labels. */
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null|[[\]{}:,;=/$]|[^"[\]{}:,;=/$]+/g;

/** Mulberry32: small, fast, and good enough to choose mutations by. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return (word ^ (word >>> 14)) >>> 0;
  };
  const below = (limit: number): number => next() % Math.max(1, limit);
  return {
    below,
    pick(list) {
      const item = list[below(list.length)];
      if (item === undefined) throw new Error('cannot pick from an empty list');
      return item;
    },
  };
}

/** Bytes changed one to four times; `others` lend pieces. */
export function mutate(bytes: Buffer, others: readonly Buffer[], random: Random): Buffer {
  let changed = bytes;
  // Most inputs should come far: one change is the usual number.
  for (let count = random.pick([1, 1, 1, 2, 4]); count > 0; count -= 1) {
    changed =
      random.below(2) === 0
        ? mutateBytes(changed, others, random)
        : mutateTokens(changed, others, random);
  }
  return changed.length > MAX_BYTES ? changed.subarray(0, MAX_BYTES) : changed;
}

function mutateBytes(bytes: Buffer, others: readonly Buffer[], random: Random): Buffer {
  const at = random.below(bytes.length + 1);
  const length = random.below(random.below(8) === 0 ? bytes.length - at + 1 : 8);
  const [before, piece, after] = [
    bytes.subarray(0, at),
    bytes.subarray(at, at + length),
    bytes.subarray(at + length),
  ];
  switch (random.below(10)) {
    case 0: {
      const copy = Buffer.from(bytes);
      if (at < copy.length) copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8));
      return copy;
    }
    case 1: {
      const copy = Buffer.from(bytes);
      if (at < copy.length) copy[at] = random.pick(BYTES);
      return copy;
    }
    case 2:
      return Buffer.concat([before, Buffer.from([random.pick(BYTES)]), bytes.subarray(at)]);
    case 3:
      return Buffer.concat([before, after]);
    case 4:
      return before;
    case 5:
      return Buffer.concat([before, piece, piece, after]);
    case 6: {
      const other = random.pick(others);
      return Buffer.concat([before, other.subarray(random.below(other.length + 1))]);
    }
    case 7: {
      const noise = Buffer.from(Array.from({ length: random.below(16) }, () => random.below(256)));
      return Buffer.concat([before, noise, after]);
    }
    case 8:
      return Buffer.concat([after, piece, before]);
    default: {
      const times = random.below(64) === 0 ? 2000 : random.below(20);
      return Buffer.concat([before, ...new Array<Buffer>(times).fill(piece), after]);
    }
  }
}

function mutateTokens(bytes: Buffer, others: readonly Buffer[], random: Random): Buffer {
  const tokens = bytes.toString('utf8').match(TOKEN) ?? [];
  const at = random.below(tokens.length);
  switch (random.below(8)) {
    case 0:
    case 1:
      tokens[at] = random.pick(TOKENS);
      break;
    case 2:
      tokens[at] = tokens[random.below(tokens.length)] ?? '';
      break;
    case 3: {
      const other = random.pick(others).toString('utf8').match(TOKEN) ?? [];
      tokens[at] = other[random.below(other.length)] ?? '';
      break;
    }
    case 4:
      tokens.splice(at, 1 + random.below(6));
      break;
    case 5:
      tokens.splice(at, 0, random.pick(TOKENS));
      break;
    case 6: {
      // Deep nesting costs much, and once in a while is enough.
      const depth = random.below(100) === 0 ? 10_000 + random.below(20_000) : random.below(50);
      tokens[at] =
        random.below(2) === 0
          ? '['.repeat(depth) + (tokens[at] ?? '') + ']'.repeat(depth)
          : '{"a":'.repeat(depth) + (tokens[at] ?? '') + '}'.repeat(depth);
      break;
    }
    default: {
      const token = tokens[at] ?? '';
      tokens[at] = random.below(2) === 0 ? token.toUpperCase() : token.toLowerCase();
    }
  }
  return Buffer.from(tokens.join(''));
}
