/** The stream of a watch: JSON, a line an event, and the question whether silence is peace or a dead connection. */
import type { Readable } from 'node:stream';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { errorOfAnswer, KubernetesError } from './kubernetes-error.ts';
import { asUnavailable, parseJson } from './transport.ts';

/** A change told by a watch. */
export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
  readonly object: unknown;
}

/** How a watch came to its end without an error. */
export type WatchEnd =
  /** The server ended it after the time agreed on. */
  | 'over'
  /** Nothing came for as long as silence was allowed: it may be stalled. */
  | 'silent';

/** How long the head of a watch's answer may take: it comes at once, before any event. */
const HEAD_TIMEOUT_MS = 30_000;
/** A server that ends a watch this much before the time agreed on was not asked to. */
const EARLY_SHARE = 0.9;
const NEWLINE = 0x0a;
const TYPES: ReadonlySet<string> = new Set<WatchEvent['type']>([
  'ADDED',
  'MODIFIED',
  'DELETED',
  'BOOKMARK',
]);

/** Reads a watch: yields nothing once when it is open, then together what came together. Rejects with KubernetesError, or with the signal's reason. */
export async function* readWatch(options: {
  readonly open: (signal: AbortSignal) => Promise<Readable>;
  /** For messages. */
  readonly what: string;
  readonly timeoutSeconds: number;
  readonly silenceMs: number;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}): AsyncGenerator<readonly WatchEvent[], WatchEnd> {
  const { what, clock, signal, silenceMs } = options;
  const ending = new AbortController();
  const end = (): void => ending.abort(signal.reason);
  if (signal.aborted) end();
  else signal.addEventListener('abort', end, { once: true });
  const begun = clock.monotonic();
  const watchdog = new AbortController();
  try {
    const answer = await openInTime(options, ending);
    const life = { heardAt: clock.monotonic(), isBusy: false, isSilent: false };
    void listen(life, { silenceMs, clock, signal: watchdog.signal }).then(() => {
      if (life.isSilent) answer.destroy();
    });
    let rest: Buffer[] = [];
    life.isBusy = true;
    yield [];
    life.isBusy = false;
    life.heardAt = clock.monotonic();
    try {
      for await (const chunk of answer) {
        life.heardAt = clock.monotonic();
        const read = splitLines(rest, chunk);
        rest = read.rest;
        const events = read.lines.map((line) => parseEvent(line, what));
        if (events.length === 0) continue;
        // While the consumer works nothing is read, which says nothing about the server.
        life.isBusy = true;
        yield events;
        life.isBusy = false;
        life.heardAt = clock.monotonic();
      }
    } catch (error) {
      if (!life.isSilent) throw asUnavailable(what, error);
    }
    if (life.isSilent) return 'silent';
    const lasted = (clock.monotonic() - begun) / 1000;
    if (lasted >= options.timeoutSeconds * EARLY_SHARE) return 'over';
    throw new KubernetesError(
      'unavailable',
      `${what}: the server ended it after ${Math.round(lasted)} s`,
    );
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    watchdog.abort(OVER);
    ending.abort(OVER);
    signal.removeEventListener('abort', end);
  }
}

/** One for all: an abort without a reason makes an error with a stack each time. */
const OVER = new Error('the watch is over');

/** Opens it; `ending` goes on ending the stream, the limit of time is for its head alone. */
async function openInTime(
  options: Pick<Parameters<typeof readWatch>[0], 'open' | 'what' | 'clock'>,
  ending: AbortController,
): Promise<Readable> {
  const { open, what, clock } = options;
  const timing = new AbortController();
  let late: KubernetesError | undefined;
  clock.sleep(HEAD_TIMEOUT_MS, timing.signal).then(
    () => {
      late = new KubernetesError('timeout', `${what}: no answer for ${HEAD_TIMEOUT_MS / 1000} s`);
      ending.abort(late);
    },
    // It came in time.
    () => undefined,
  );
  try {
    return await open(ending.signal);
  } catch (error) {
    throw late ?? error;
  } finally {
    timing.abort(OVER);
  }
}

/** Resolves when nothing has come for too long, with `isSilent` set, or when `signal` aborts. */
async function listen(
  life: { readonly heardAt: number; readonly isBusy: boolean; isSilent: boolean },
  options: { readonly silenceMs: number; readonly clock: Clock; readonly signal: AbortSignal },
): Promise<void> {
  const { silenceMs, clock, signal } = options;
  let leftMs = silenceMs;
  while (!signal.aborted) {
    try {
      await clock.sleep(leftMs, signal);
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
    leftMs = life.isBusy ? silenceMs : life.heardAt + silenceMs - clock.monotonic();
    if (leftMs > 0) continue;
    life.isSilent = true;
    return;
  }
}

/** Takes whole lines off what has come; the rest waits for more. */
function splitLines(before: Buffer[], chunk: Buffer): { lines: string[]; rest: Buffer[] } {
  let end = chunk.indexOf(NEWLINE);
  if (end === -1) return { lines: [], rest: [...before, chunk] };
  const lines = [Buffer.concat([...before, chunk.subarray(0, end)]).toString('utf8')];
  let start = end + 1;
  for (end = chunk.indexOf(NEWLINE, start); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
    lines.push(chunk.toString('utf8', start, end));
    start = end + 1;
  }
  return {
    lines: lines.filter((line) => line.trim() !== ''),
    rest: start < chunk.length ? [chunk.subarray(start)] : [],
  };
}

function parseEvent(line: string, what: string): WatchEvent {
  const event = parseJson(line, what) as { type?: unknown; object?: unknown } | null;
  const type = event?.type;
  if (typeof type === 'string' && TYPES.has(type)) {
    return { type: type as WatchEvent['type'], object: event?.object };
  }
  if (type === 'ERROR') {
    const code = (event?.object as { code?: unknown } | undefined)?.code;
    throw errorOfAnswer(what, {
      status: typeof code === 'number' ? code : 500,
      body: event?.object,
    });
  }
  throw new KubernetesError(
    'unavailable',
    `${what}: not an event of a watch: ${line.slice(0, 100)}`,
  );
}
