/**
 * Tokens with which machines enrol. All of them are in etcd and nothing of them is here, so that every replica decides alike and
 * a restart changes nothing; a use is taken by compare-and-swap, so that of two who try the last one, one has it.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { type KvCompare, KvError, type KvPair, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { isTokenId } from '../../mesh/wire/enrollment-token.ts';
import { createSlots } from '../gate/slots.ts';
import { TokenError } from './token-error.ts';
import {
  decodeToken,
  decodeTokenUse,
  encodeToken,
  encodeTokenUse,
  TOKEN_USES_PREFIX,
  TOKENS_PREFIX,
  type TokenRecord,
  type TokenState,
  type TokenUse,
  tokenState,
} from './token-record.ts';
import type { TokenWish } from './token-wish.ts';

const SECRET_BYTES = 32;
const ID_BYTES = 10;
/** Nobody needs more; a runaway script shall not fill etcd. */
const MAX_TOKENS = 10_000;
/** Others may take uses of the same token between our reading and our writing. */
const MAX_ATTEMPTS = 100;
const SWEEP_EVERY_MS = 3_600_000;
/** How long a token that is over is kept for those who ask who used it. */
const KEEP_AFTER_END_MS = 30 * 86_400_000;
/** What secrets are compared with where there is no token: nothing has this hash. */
const NO_HASH = Buffer.alloc(32);

/** Who does something, for the log and for whoever asks later. */
export interface TokenActor {
  /** Common name of the caller's certificate. */
  readonly by: string;
  readonly from: string;
}

/** A token with everybody who used it. */
export interface TokenListing {
  readonly record: TokenRecord;
  readonly state: TokenState;
  readonly uses: readonly TokenUse[];
}

/** What came of taking a use. */
export type TokenTaking =
  /** A use is gone; `repeated`: the same machine had taken it before with the same key. */
  | { readonly kind: 'taken' | 'repeated'; readonly record: TokenRecord }
  /** It has ended since it was looked at; `unknown`: it is gone from etcd. */
  | { readonly kind: 'refused'; readonly state: Exclude<TokenState, 'usable'> | 'unknown' };

/** The tokens of the cluster. Everything rejects with KvError while etcd does not answer. */
export interface TokenBook {
  /** Makes a token. The secret is known to nobody once it is let go of. Throws TokenError `too-many`. */
  create(
    wish: TokenWish,
    actor: TokenActor,
    signal: AbortSignal,
  ): Promise<{ readonly record: TokenRecord; readonly secret: Buffer }>;
  list(signal: AbortSignal): Promise<readonly TokenListing[]>;
  /** Ends a token; one that has ended stays as it is. Throws TokenError `unknown`. */
  revoke(id: string, actor: TokenActor, signal: AbortSignal): Promise<TokenListing>;
  /**
   * The token of an id and a secret, whatever state it is in; undefined when there is none or the secret is not its own, which
   * takes the same time.
   */
  find(id: string, secret: Uint8Array, signal: AbortSignal): Promise<TokenRecord | undefined>;
  /** Takes a use of a token for a machine. Throws TokenError `contended` when others are always faster. */
  take(id: string, use: Omit<TokenUse, 'at'>, signal: AbortSignal): Promise<TokenTaking>;
  /** Forgets tokens that ended long ago, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Makes the book of the tokens that a store has. */
export function createTokenBook(options: {
  readonly store: KvStore;
  readonly clock: Clock;
  readonly logger: Logger;
}): TokenBook {
  const { store, clock, logger } = options;
  /** Uses are taken one after the other: a replica does not get in its own way. */
  const turns = createSlots(1);

  const read = async (
    id: string,
    signal: AbortSignal,
  ): Promise<{ readonly pair: KvPair; readonly record: TokenRecord } | undefined> => {
    const pair = await store.get(TOKENS_PREFIX + id, { signal });
    const record = pair === undefined ? undefined : decodeToken(pair.value.toString('utf8'));
    return pair === undefined || record === undefined ? undefined : { pair, record };
  };
  const usesOf = async (id: string, signal: AbortSignal): Promise<TokenUse[]> => {
    const { pairs } = await store.list(`${TOKEN_USES_PREFIX}${id}/`, { signal });
    return pairs.flatMap(({ value }) => decodeTokenUse(value.toString('utf8')) ?? []);
  };

  const tryTake = async (
    id: string,
    use: Omit<TokenUse, 'at'>,
    signal: AbortSignal,
  ): Promise<TokenTaking | undefined> => {
    const useKey = `${TOKEN_USES_PREFIX}${id}/${use.machine}`;
    const [found, usePair] = await Promise.all([read(id, signal), store.get(useKey, { signal })]);
    if (found === undefined) return { kind: 'refused', state: 'unknown' };
    const { pair, record } = found;
    const state = tokenState(record, clock.now());
    const before = usePair === undefined ? undefined : decodeTokenUse(usePair.value.toString());
    if (state === 'revoked' || state === 'expired') return { kind: 'refused', state };
    if (before?.keyHash === use.keyHash) return { kind: 'repeated', record };
    if (state === 'used-up') return { kind: 'refused', state };
    const next = { ...record, usesLeft: record.usesLeft - 1 };
    const ofUse: KvCompare =
      usePair === undefined
        ? { key: useKey, exists: false }
        : { key: useKey, modRevision: usePair.modRevision };
    const { succeeded } = await store.transact(
      {
        compare: [{ key: pair.key, modRevision: pair.modRevision }, ofUse],
        then: [
          { kind: 'put', key: pair.key, value: encodeToken(next) },
          { kind: 'put', key: useKey, value: encodeTokenUse({ ...use, at: clock.now() }) },
        ],
      },
      { signal },
    );
    return succeeded ? { kind: 'taken', record: next } : undefined;
  };
  const revokeOnce = async (
    id: string,
    actor: TokenActor,
    signal: AbortSignal,
  ): Promise<TokenRecord | undefined> => {
    const found = isTokenId(id) ? await read(id, signal) : undefined;
    if (found === undefined) {
      throw new TokenError(
        'unknown',
        `no token has the id ${JSON.stringify(id.slice(0, 40))}; see \`clustermesh vm token list\``,
      );
    }
    const { pair, record } = found;
    if (record.revoked !== undefined) return record;
    const revoked = { ...record, revoked: { at: clock.now(), by: actor.by } };
    const { succeeded } = await store.transact(
      {
        compare: [{ key: pair.key, modRevision: pair.modRevision }],
        then: [{ kind: 'put', key: pair.key, value: encodeToken(revoked) }],
      },
      { signal },
    );
    if (!succeeded) return undefined;
    logger.info({ token: id, ...actor }, 'a token was revoked');
    return revoked;
  };
  const listingOf = (record: TokenRecord, uses: readonly TokenUse[]): TokenListing => ({
    record,
    state: tokenState(record, clock.now()),
    uses,
  });
  const sweep = async (signal: AbortSignal): Promise<void> => {
    const { pairs } = await store.list(TOKENS_PREFIX, { signal });
    const before = clock.now() - KEEP_AFTER_END_MS;
    for (const { key, value, modRevision } of pairs) {
      const record = decodeToken(value.toString('utf8'));
      if (record === undefined || record.expiresAt > before) continue;
      // The token last: without it nobody would find its uses again.
      await store.deletePrefix(`${TOKEN_USES_PREFIX}${record.id}/`, { signal });
      await store.transact(
        { compare: [{ key, modRevision }], then: [{ kind: 'delete', key }] },
        { signal },
      );
    }
  };

  return {
    async create(wish, actor, signal) {
      const { count } = await store.count(TOKENS_PREFIX, { signal });
      if (count >= MAX_TOKENS) {
        throw new TokenError(
          'too-many',
          `there are ${count} tokens already, those of the last 30 days included: give one token more uses instead`,
        );
      }
      const secret = randomBytes(SECRET_BYTES);
      const { ttlSeconds, ...granted } = wish;
      const now = clock.now();
      const record: TokenRecord = {
        ...granted,
        id: randomBytes(ID_BYTES).toString('hex'),
        hash: hashOf(secret).toString('hex'),
        createdAt: now,
        createdBy: actor.by,
        expiresAt: now + ttlSeconds * 1000,
        usesLeft: wish.uses,
        revoked: undefined,
      };
      await store.put(TOKENS_PREFIX + record.id, encodeToken(record), { signal });
      const { id, names, namespace, labels, addressRanges, uses } = record;
      logger.info(
        { token: id, names, namespace, labels, addressRanges, uses, ttlSeconds, ...actor },
        'a token was made',
      );
      return { record, secret };
    },
    async list(signal) {
      const { pairs } = await store.list(TOKENS_PREFIX, { signal });
      const used = await store.list(TOKEN_USES_PREFIX, { signal });
      const uses = new Map<string, TokenUse[]>();
      for (const { key, value } of used.pairs) {
        const [id = ''] = key.slice(TOKEN_USES_PREFIX.length).split('/');
        const use = decodeTokenUse(value.toString('utf8'));
        if (use === undefined) continue;
        const ofToken = uses.get(id) ?? [];
        ofToken.push(use);
        uses.set(id, ofToken);
      }
      return pairs
        .flatMap(({ value }) => decodeToken(value.toString('utf8')) ?? [])
        .map((record) => listingOf(record, uses.get(record.id) ?? []))
        .sort((a, b) => a.record.createdAt - b.record.createdAt);
    },
    async revoke(id, actor, signal) {
      for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
        const record = await revokeOnce(id, actor, signal);
        if (record !== undefined) return listingOf(record, await usesOf(id, signal));
      }
      throw contended(id);
    },
    async find(id, secret, signal) {
      // Of another form it cannot be a key; the answer takes as long all the same.
      const found = await read(isTokenId(id) ? id : '0', signal);
      const hash = found === undefined ? NO_HASH : Buffer.from(found.record.hash, 'hex');
      const isOwn = timingSafeEqual(hash, hashOf(secret));
      return isOwn ? found?.record : undefined;
    },
    async take(id, use, signal) {
      const release = await turns.acquire(signal);
      try {
        for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
          const taking = await tryTake(id, use, signal);
          if (taking !== undefined) return taking;
        }
        throw contended(id);
      } finally {
        release();
      }
    },
    async run(signal) {
      while (!signal.aborted) {
        try {
          await sweep(signal);
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof KvError)) throw error;
          logger.warn({ err: error }, 'cannot forget tokens that are over, will be retried');
        }
        await clock.sleep(SWEEP_EVERY_MS, signal).catch(() => undefined);
      }
    },
  };
}

function hashOf(secret: Uint8Array): Buffer {
  return createHash('sha256').update(secret).digest();
}

function contended(id: string): TokenError {
  return new TokenError(
    'contended',
    `token ${id} is used by so many at once that nothing could be written: try again`,
  );
}
