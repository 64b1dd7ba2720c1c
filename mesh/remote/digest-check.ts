/**
 * Compares what is held of a prefix with the digest that its publisher writes in the same transaction as each change. A
 * digest of revision R holds for the state after every change up to R and none behind it, so states are remembered for
 * a while, and a digest waits until its state has come. Has no clock and no socket.
 */
import type { MeshDigest } from '../wire/digest.ts';
import type { HashSum } from './ledger.ts';

/** What a reader holds: how many keys, and the sum of their hashes. */
export interface HeldState {
  readonly count: number;
  readonly sum: HashSum;
}

/** What a comparison says; `undecided` until enough has been read. */
export type DigestVerdict =
  | { readonly kind: 'undecided' }
  | { readonly kind: 'match'; readonly revision: bigint }
  | {
      readonly kind: 'mismatch';
      readonly revision: bigint;
      readonly held: MeshDigest;
      readonly published: MeshDigest;
    };

/** One prefix. */
export interface DigestCheck {
  /** A list has ended: `held` is the state at this revision. */
  synced(revision: bigint, held: HeldState): DigestVerdict;
  /** To be called before a change is applied, with its revision and the state before it. */
  before(revision: bigint, held: HeldState): DigestVerdict;
  /** Everything up to this revision is applied. */
  upTo(revision: bigint, held: HeldState): DigestVerdict;
  /** Changes up to this revision are not applied one by one: states before it never come. */
  blur(revision: bigint): void;
  /** A digest came. */
  published(revision: bigint, digest: MeshDigest, held: HeldState): DigestVerdict;
  /** Nothing is known any more. */
  clear(): void;
}

/** A state that stood from one revision until before another. */
interface Span {
  readonly from: bigint;
  readonly until: bigint;
  readonly held: MeshDigest;
}

const MOST_SPANS = 64;
const UNDECIDED: DigestVerdict = { kind: 'undecided' };

/** Makes a check that knows nothing. */
export function createDigestCheck(): DigestCheck {
  let spans: Span[] = [];
  /** Revision of the newest change that is applied; undefined before the first list. */
  let current: bigint | undefined;
  /** States before this revision were never complete. */
  let exactFrom = 0n;
  let digest: { readonly revision: bigint; readonly published: MeshDigest } | undefined;

  /** Compares where the state of the digest's revision is known. `isFinal`: no more of that revision is to come. */
  const compare = (held: MeshDigest, isFinal: boolean): DigestVerdict => {
    if (digest === undefined) return UNDECIDED;
    const { revision, published } = digest;
    if (held.count === published.count && held.sum === published.sum) {
      digest = undefined;
      return { kind: 'match', revision };
    }
    if (!isFinal) return UNDECIDED;
    digest = undefined;
    return { kind: 'mismatch', revision, held, published };
  };
  const settle = (held: HeldState, finalUpTo: bigint): DigestVerdict => {
    if (digest === undefined || current === undefined) return UNDECIDED;
    const { revision } = digest;
    if (revision < exactFrom) {
      digest = undefined;
      return UNDECIDED;
    }
    if (revision >= current) return compare(toDigest(held), finalUpTo >= revision);
    const span = spans.find(({ from, until }) => from <= revision && revision < until);
    if (span !== undefined) return compare(span.held, true);
    // Its state has passed and was not kept: a newer digest will come.
    digest = undefined;
    return UNDECIDED;
  };

  return {
    synced(revision, held) {
      spans = [];
      current = revision;
      exactFrom = revision;
      return settle(held, revision);
    },
    before(revision, held) {
      if (current === undefined || revision <= current) return UNDECIDED;
      spans.push({ from: current, until: revision, held: toDigest(held) });
      if (spans.length > MOST_SPANS) spans = spans.slice(-MOST_SPANS);
      const verdict = settle(held, revision - 1n);
      current = revision;
      return verdict;
    },
    upTo(revision, held) {
      return settle(held, revision);
    },
    blur(revision) {
      spans = [];
      if (revision > exactFrom) exactFrom = revision;
    },
    published(revision, published, held) {
      digest = { revision, published };
      // Not yet final: more of that revision may follow.
      return current === undefined ? UNDECIDED : settle(held, current - 1n);
    },
    clear() {
      spans = [];
      current = undefined;
      exactFrom = 0n;
      digest = undefined;
    },
  };
}

/** The state as a digest would be written. */
export function toDigest({ count, sum }: HeldState): MeshDigest {
  return { count, sum: hex(sum.high) + hex(sum.low) };
}

function hex(word: number): string {
  return word.toString(16).padStart(8, '0');
}
