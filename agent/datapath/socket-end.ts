/**
 * Ends sockets that talk to a backend which is gone: a connected UDP socket would send into nothing for ever, and a TCP
 * socket that is still connecting for two minutes. The next send gets an error instead, and the application connects to
 * a backend that is there. Established TCP connections are left to themselves.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import {
  endSockets,
  listWaitingSockets,
  type RunProgram,
  runProgram,
  type SocketPlace,
  type WaitingSocket,
} from './socket-list.ts';
import type { OrphanedSocket, SocketOrphans } from './socket-orphans.ts';

/** How often it is looked whether backends were lost. */
const LOOK_EACH_MS = 500;
/** After a round that took some time, so many times as long is nothing done: a twentieth of a core at most. */
const REST_FACTOR = 19;
/** Namespaces that are looked into at a time. */
const PLACES_AT_A_TIME = 4;

const WHAT_IS_LOST =
  'connected UDP sockets whose backend is gone send into nothing until their application opens new ones';

/** Whether sockets can be ended on this machine. */
type SocketEndState =
  | { readonly kind: 'untried' }
  | { readonly kind: 'working' }
  | { readonly kind: 'impossible'; readonly reason: string };

/** The part of an agent that ends sockets. */
export interface SocketEnd {
  /** Runs until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
  /** One round: ends what was orphaned since the last one. Returns how many sockets were ended. */
  sweep(options: { readonly all: boolean; readonly signal: AbortSignal }): Promise<number>;
}

/** Makes it; nothing is done before it runs. */
export function createSocketEnd(options: {
  readonly orphans: SocketOrphans;
  /** Network namespaces of this node's endpoints, by path. */
  readonly namespaces: () => readonly string[];
  /** Whether everything was read that frontends are made of: from then on, what is not wanted is gone. */
  readonly isComplete: () => boolean;
  /** Default: programs of this machine. */
  readonly run?: RunProgram;
  readonly clock: Clock;
  readonly logger: Logger;
}): SocketEnd {
  const { orphans, namespaces, isComplete, clock, logger } = options;
  const run = options.run ?? runProgram;
  let state: SocketEndState = { kind: 'untried' };

  const sweepPlace = async (
    place: SocketPlace,
    wanted: readonly OrphanedSocket[],
    signal: AbortSignal,
  ): Promise<number> => {
    try {
      const found: WaitingSocket[] = [];
      for (const protocol of ['UDP', 'TCP'] as const) {
        const peers = peersOf(wanted, protocol);
        if (peers.size === 0) continue;
        for (const socket of await listWaitingSockets(place, protocol, { run, signal })) {
          // The cookie alone does not do: the socket may have been connected anew since.
          if (peers.get(socket.cookie)?.has(socket.peer)) found.push(socket);
        }
      }
      await endSockets(place, found, { run, signal });
      return found.length;
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      // Most likely the pod has just ended; if not, the next loss of a backend leads here again.
      logger.debug({ namespace: place, err: error }, 'sockets cannot be listed');
      return 0;
    }
  };

  const sweep: SocketEnd['sweep'] = async ({ all, signal }) => {
    const wanted = await orphans.find({ all });
    if (wanted.length === 0 || state.kind === 'impossible') return 0;
    if (state.kind === 'untried') {
      state = await trySocketEnd({ run, signal });
      if (state.kind === 'impossible') {
        logger.warn({ reason: state.reason }, `sockets cannot be ended: ${WHAT_IS_LOST}`);
        return 0;
      }
    }
    const places: SocketPlace[] = [undefined, ...new Set(namespaces())];
    let ended = 0;
    for (let start = 0; start < places.length; start += PLACES_AT_A_TIME) {
      const part = places.slice(start, start + PLACES_AT_A_TIME);
      const counts = await Promise.all(part.map((place) => sweepPlace(place, wanted, signal)));
      ended += counts.reduce((sum, count) => sum + count, 0);
    }
    if (ended > 0) logger.info({ sockets: ended }, 'sockets of lost backends ended');
    return ended;
  };

  return {
    sweep,
    async run(signal) {
      let isFirst = true;
      for (;;) {
        const began = clock.monotonic();
        const all = isFirst && isComplete();
        if (all) isFirst = false;
        try {
          await sweep({ all, signal });
        } catch (error) {
          if (signal.aborted) return;
          logger.warn({ err: error }, 'sockets of lost backends cannot be found');
        }
        const rest = REST_FACTOR * (clock.monotonic() - began);
        try {
          await clock.sleep(Math.max(LOOK_EACH_MS, rest), signal);
        } catch {
          return;
        }
      }
    },
  };
}

/** Backends that are gone, by the cookie of the sockets that talk to them. */
function peersOf(
  wanted: readonly OrphanedSocket[],
  protocol: WaitingSocket['protocol'],
): ReadonlyMap<bigint, ReadonlySet<string>> {
  const peers = new Map<bigint, Set<string>>();
  for (const { cookie, backend } of wanted) {
    if (!backend.startsWith(`${protocol} `)) continue;
    peers.set(cookie, (peers.get(cookie) ?? new Set()).add(backend));
  }
  return peers;
}

/** Ends a socket of our own: neither `ss` nor an old kernel says that it did nothing. */
async function trySocketEnd(options: {
  readonly run: RunProgram;
  readonly signal: AbortSignal;
}): Promise<SocketEndState> {
  const socket = createSocket('udp4');
  // Being ended is an error to the socket.
  socket.on('error', () => undefined);
  try {
    socket.bind(0, '127.0.0.1');
    await once(socket, 'listening');
    const { port } = socket.address();
    const connected = once(socket, 'connect');
    socket.connect(port, '127.0.0.1');
    await connected;
    const listing = { ...options, filter: `src 127.0.0.1:${port}` };
    const own = await listWaitingSockets(undefined, 'UDP', listing);
    if (own.length === 0) {
      return impossible(
        'ss shows no UDP sockets with their cookies: the kernel lacks CONFIG_INET_UDP_DIAG',
      );
    }
    await endSockets(undefined, own, options);
    if ((await listWaitingSockets(undefined, 'UDP', listing)).length > 0) {
      return impossible('the kernel lacks CONFIG_INET_DIAG_DESTROY');
    }
    return { kind: 'working' };
  } catch (error) {
    if (options.signal.aborted) throw options.signal.reason;
    const reason = error instanceof Error ? error.message : String(error);
    return impossible(`ss of iproute2 cannot be run: ${reason.split('\n')[0]}`);
  } finally {
    socket.close();
  }
}

function impossible(reason: string): SocketEndState {
  return { kind: 'impossible', reason };
}
