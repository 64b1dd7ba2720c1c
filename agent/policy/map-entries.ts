/**
 * Rows of the policy map: blocks of ports, how the kernel picks one of the rows that match, and how rules in which every
 * deny wins over every allow become rows of which the kernel picks the right one.
 */
import type { PolicyEntry } from '../datapath/desired.ts';
import type { Direction } from './rule.ts';

/** An aligned block of ports of one protocol; all zero: everything. */
export type PortBlock = Pick<PolicyEntry, 'protocol' | 'port' | 'portPrefixBits'>;

/** What the kernel asks the policy map. */
export interface PolicyQuestion {
  readonly direction: Direction;
  /** Identity of the other side. */
  readonly identity: number;
  /** IANA number. */
  readonly protocol: number;
  /** Destination port; type of an ICMP message. */
  readonly port: number;
  /** The identity is one of pods that the agent does not know. Default: it is not. */
  readonly isStranger?: boolean;
}

/** What the map says; `none`: no row matches, which denies where the direction is enforced. */
export type RowVerdict =
  | { readonly kind: 'allow' | 'deny'; readonly row: PolicyEntry }
  | { readonly kind: 'none' };

/** A block as one number: its width (0 to 24 bits), then protocol and port, of which only so many high bits are set. */
export type BlockCode = number;

/** A block with a verdict as one number: DENY or KNOWN_ONLY, or neither, above the block's code. */
export type RowCode = number;

const VALUE_BITS = 24;
const VALUE_MASK = 0xffffff;
const PORT_BITS = 16;
/** Number of bits that a protocol takes. */
const PROTOCOL_BITS = 8;
const DENY = 1 << 29;
const KNOWN_ONLY = 1 << 30;
const EMPTY: readonly RowCode[] = [];

/** What the kernel does with the rows of one endpoint (`policy_verdict` of `bpf/lib/policy.h`), without the kernel. */
export function lookupVerdict(rows: Iterable<PolicyEntry>, question: PolicyQuestion): RowVerdict {
  let exact: PolicyEntry | undefined;
  let any: PolicyEntry | undefined;
  const point = blockCode({ ...question, portPrefixBits: PORT_BITS });
  for (const row of rows) {
    if (row.direction !== question.direction) continue;
    if (row.identity !== 0 && row.identity !== question.identity) continue;
    if (row.knownOnly === true && question.isStranger === true) continue;
    const code = blockCode(row);
    if (!contains(code, point)) continue;
    // Of one identity, the longest prefix that matches.
    if (row.identity === 0) {
      if (any === undefined || widthOf(code) > widthOf(blockCode(any))) any = row;
    }
    if (row.identity === question.identity) {
      if (exact === undefined || widthOf(code) > widthOf(blockCode(exact))) exact = row;
    }
  }
  const row = chooseRow(exact, any);
  return row === undefined ? { kind: 'none' } : { kind: row.verdict, row };
}

function chooseRow(
  exact: PolicyEntry | undefined,
  any: PolicyEntry | undefined,
): PolicyEntry | undefined {
  if (exact === undefined || any === undefined) return exact ?? any;
  const [exactWidth, anyWidth] = [widthOf(blockCode(exact)), widthOf(blockCode(any))];
  if (exactWidth !== anyWidth) return exactWidth > anyWidth ? exact : any;
  return any.verdict === 'deny' ? any : exact;
}

/** Code of a block. Bits of the port that do not count are cleared. */
export function blockCode({ protocol, port, portPrefixBits }: PortBlock): BlockCode {
  if (protocol === 0) return 0;
  const width = PROTOCOL_BITS + portPrefixBits;
  const mask = (VALUE_MASK << (VALUE_BITS - width)) & VALUE_MASK;
  return (width << VALUE_BITS) | (((protocol << PORT_BITS) | port) & mask);
}

/** The row of a code. */
export function rowOfCode(
  code: RowCode,
  place: Pick<PolicyEntry, 'endpointId' | 'direction' | 'identity'>,
): PolicyEntry {
  return {
    endpointId: place.endpointId,
    direction: place.direction,
    identity: place.identity,
    protocol: (code >>> PORT_BITS) & 0xff,
    port: code & 0xffff,
    portPrefixBits: Math.max(0, widthOf(code) - PROTOCOL_BITS),
    verdict: isDeny(code) ? 'deny' : 'allow',
    ...(isKnownOnly(code) ? { knownOnly: true } : {}),
  };
}

/** The code of a row. */
export function codeOfRow(row: PortBlock & Pick<PolicyEntry, 'verdict' | 'knownOnly'>): RowCode {
  if (row.verdict === 'deny') return blockCode(row) | DENY;
  return row.knownOnly === true ? blockCode(row) | KNOWN_ONLY : blockCode(row);
}

/** Whether a row denies. */
export function isDeny(code: RowCode): boolean {
  return (code & DENY) !== 0;
}

/** Whether a row allows only those of any identity who are known. */
export function isKnownOnly(code: RowCode): boolean {
  return (code & KNOWN_ONLY) !== 0;
}

/** The block of a row, whatever its verdict. */
export function blockOf(code: RowCode): BlockCode {
  return code & ~(DENY | KNOWN_ONLY);
}

/** Whether everything of the second block is in the first one. */
export function contains(outer: BlockCode, inner: BlockCode): boolean {
  const width = widthOf(outer);
  if (width > widthOf(inner)) return false;
  return ((outer ^ inner) & VALUE_MASK) >>> (VALUE_BITS - width) === 0;
}

function widthOf(code: RowCode): number {
  return (code >>> VALUE_BITS) & 0x1f;
}

/** Ports that rules allow and deny to somebody. */
export interface PortRules {
  readonly allow: readonly BlockCode[];
  readonly deny: readonly BlockCode[];
}

/**
 * Rows for any identity. Of blocks one lies in the other or they are apart, so what is left of the allows is wider than every
 * deny in it. `knownOnly`: beside them stand denies that depend on who the other side is.
 */
export function resolveAny(
  { allow, deny }: PortRules,
  { knownOnly }: { readonly knownOnly: boolean } = { knownOnly: false },
): readonly RowCode[] {
  const denies = outermost(deny);
  const allows = outermost(allow.filter((block) => !isWithin(block, denies)));
  return sortedRows(denies, knownOnly ? allows.map((block) => block | KNOWN_ONLY) : allows);
}

/**
 * Rows for one identity beside those for any: whatever the kernel picks of both is what a deny that wins over every allow
 * would say. An allow that a deny covers goes. A deny of this identity that is wider than an allow of any identity is
 * said again as narrowly as that allow, or the kernel would take the allow. What the rows for any say already is left out.
 */
export function resolveExact(
  { allow, deny }: PortRules,
  any: readonly RowCode[],
): readonly RowCode[] {
  const anyDenies = any.filter(isDeny).map(blockOf);
  const anyAllows = any.filter((code) => !isDeny(code)).map(blockOf);
  const denies = outermost(deny);
  const narrowed = anyAllows.filter((block) =>
    denies.some((wider) => wider !== block && contains(wider, block)),
  );
  const allows = outermost(
    allow.filter(
      (block) =>
        !isWithin(block, denies) && !isWithin(block, anyDenies) && !isWithin(block, anyAllows),
    ),
  );
  const ownDenies = denies.filter((block) => !isWithin(block, anyDenies));
  return sortedRows([...ownDenies, ...narrowed], allows);
}

/** Blocks that lie in no other one, each once. */
function outermost(blocks: readonly BlockCode[]): BlockCode[] {
  if (blocks.length <= 1) return [...blocks];
  const sorted = [...new Set(blocks)].sort((a, b) => widthOf(a) - widthOf(b));
  const kept: BlockCode[] = [];
  for (const block of sorted) if (!isWithin(block, kept)) kept.push(block);
  return kept;
}

function isWithin(block: BlockCode, blocks: readonly BlockCode[]): boolean {
  return blocks.some((outer) => contains(outer, block));
}

function sortedRows(
  denies: readonly BlockCode[],
  allows: readonly BlockCode[],
): readonly RowCode[] {
  if (denies.length + allows.length === 0) return EMPTY;
  return [...denies.map((block) => block | DENY), ...allows].sort((a, b) => a - b);
}
