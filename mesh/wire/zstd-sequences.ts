/** The sequences of a Zstandard block (RFC 8878, section 3.1.1.3.2): how many literals to take, then what to copy from where. */
import {
  buildFseTable,
  constantTable,
  type FseTable,
  openBackwardBits,
  readFseTable,
  ZstdError,
} from './zstd-bits.ts';

/** Tables of a block's sequences; a later block may use them again. */
export interface SequenceTables {
  readonly literalLengths: FseTable;
  readonly offsets: FseTable;
  readonly matchLengths: FseTable;
}

/** Where sequences write to: each piece is checked against what is allowed before it is copied. */
export interface SequenceSink {
  /** Appends the next `count` literals. */
  takeLiterals(count: number): void;
  /** Appends `length` bytes that begin `offset` bytes before the end of what was written. */
  copyMatch(offset: number, length: number): void;
  /** The last three offsets, the newest first; they outlive a block. */
  readonly recentOffsets: [number, number, number];
}

/** What the code of a length stands for: its smallest value, and how many bits are added to it. */
interface LengthCodes {
  readonly base: readonly number[];
  readonly bits: readonly number[];
}

const LITERAL_LENGTHS = lengthCodes(
  [...zeros(16), 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
  0,
);
/** The shortest match has three bytes. */
const MATCH_LENGTHS = lengthCodes(
  [...zeros(32), 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
  3,
);
const MAX_OFFSET_CODE = 31;

/** What is used where a block says nothing of its own (section 3.1.1.3.2.2). */
const DEFAULT_TABLES: SequenceTables = {
  literalLengths: buildFseTable(
    [
      4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1,
      1, -1, -1, -1, -1,
    ],
    6,
  ),
  offsets: buildFseTable(
    [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1],
    5,
  ),
  matchLengths: buildFseTable(
    [
      1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
      1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
    ],
    6,
  ),
};

/** Runs the sequences of a block, which begin behind its literals. Gives the tables that the next block may use again. */
export function runSequences(
  section: Uint8Array,
  sink: SequenceSink,
  before: SequenceTables | undefined,
): SequenceTables | undefined {
  const first = section[0];
  if (first === undefined) throw new ZstdError('corrupt', 'a block without sequences');
  if (first === 0) {
    if (section.length > 1) throw new ZstdError('corrupt', 'a block that goes on behind its end');
    return before;
  }
  const second = section[1] ?? 0;
  let count = first;
  let at = 1;
  if (first === 255) {
    count = second + (section[2] ?? 0) * 256 + 0x7f00;
    at = 3;
  } else if (first > 127) {
    count = (first - 128) * 256 + second;
    at = 2;
  }
  const modes = section[at];
  if (modes === undefined || (modes & 3) !== 0) {
    throw new ZstdError('corrupt', 'sequences with unknown tables');
  }
  at += 1;
  const readTable = (
    name: keyof SequenceTables,
    shift: number,
    limits: { readonly maxAccuracy: number; readonly maxSymbol: number },
  ): FseTable => {
    const mode = (modes >> shift) & 3;
    if (mode === 0) return DEFAULT_TABLES[name];
    if (mode === 3) {
      if (before === undefined) throw new ZstdError('corrupt', 'sequences without tables');
      return before[name];
    }
    if (mode === 1) {
      const symbol = section[at];
      if (symbol === undefined || symbol > limits.maxSymbol) {
        throw new ZstdError('corrupt', 'sequences with an unknown code');
      }
      at += 1;
      return constantTable(symbol);
    }
    const { value, size } = readFseTable(section.subarray(at), limits);
    at += size;
    return value;
  };
  const tables: SequenceTables = {
    literalLengths: readTable('literalLengths', 6, { maxAccuracy: 9, maxSymbol: 35 }),
    offsets: readTable('offsets', 4, { maxAccuracy: 8, maxSymbol: MAX_OFFSET_CODE }),
    matchLengths: readTable('matchLengths', 2, { maxAccuracy: 9, maxSymbol: 52 }),
  };
  decodeSequences(section.subarray(at), { count, tables, sink });
  return tables;
}

function decodeSequences(
  bytes: Uint8Array,
  options: {
    readonly count: number;
    readonly tables: SequenceTables;
    readonly sink: SequenceSink;
  },
): void {
  const { count, sink } = options;
  const { literalLengths, offsets, matchLengths } = options.tables;
  const bits = openBackwardBits(bytes);
  let literalState = bits.read(literalLengths.accuracy);
  let offsetState = bits.read(offsets.accuracy);
  let matchState = bits.read(matchLengths.accuracy);
  for (let index = 0; index < count; index += 1) {
    const offsetCode = offsets.symbols[offsetState] ?? 0;
    const matchCode = matchLengths.symbols[matchState] ?? 0;
    const literalCode = literalLengths.symbols[literalState] ?? 0;
    const offsetValue = 2 ** offsetCode + bits.read(offsetCode);
    const matchLength =
      (MATCH_LENGTHS.base[matchCode] ?? 0) + bits.read(MATCH_LENGTHS.bits[matchCode] ?? 0);
    const literalLength =
      (LITERAL_LENGTHS.base[literalCode] ?? 0) + bits.read(LITERAL_LENGTHS.bits[literalCode] ?? 0);
    // Without this, sequences would go on for ever on the zeros that lie before the first bit.
    if (bits.left < 0) throw new ZstdError('corrupt', 'sequences that are cut off');
    sink.takeLiterals(literalLength);
    sink.copyMatch(recallOffset(sink.recentOffsets, offsetValue, literalLength), matchLength);
    if (index === count - 1) break;
    literalState = next(
      literalLengths,
      literalState,
      bits.read(bitsOf(literalLengths, literalState)),
    );
    matchState = next(matchLengths, matchState, bits.read(bitsOf(matchLengths, matchState)));
    offsetState = next(offsets, offsetState, bits.read(bitsOf(offsets, offsetState)));
  }
  if (bits.left !== 0) throw new ZstdError('corrupt', 'sequences that do not end');
}

function bitsOf(table: FseTable, state: number): number {
  return table.bits[state] ?? 0;
}

function next(table: FseTable, state: number, more: number): number {
  return (table.base[state] ?? 0) + more;
}

/** The offset of a match: a new one, or one of the last three (section 3.1.1.5). Moves it to the front. */
function recallOffset(
  recent: [number, number, number],
  value: number,
  literalLength: number,
): number {
  const which = value > 3 ? 3 : value - 1 + (literalLength === 0 ? 1 : 0);
  if (which === 0) return recent[0];
  const offset =
    value > 3 ? value - 3 : which === 1 ? recent[1] : which === 2 ? recent[2] : recent[0] - 1;
  if (which !== 1) recent[2] = recent[1];
  recent[1] = recent[0];
  recent[0] = offset;
  return offset;
}

function zeros(count: number): number[] {
  return new Array<number>(count).fill(0);
}

function lengthCodes(bits: readonly number[], smallest: number): LengthCodes {
  const base: number[] = [];
  let value = smallest;
  for (const width of bits) {
    base.push(value);
    value += 2 ** width;
  }
  return { base, bits };
}
