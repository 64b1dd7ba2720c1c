/** Asks nodes of the own cluster, over their sessions, whether they reach machines elsewhere. */
import { z } from 'zod';
import type { Clock } from '../../mesh/runtime/clock.ts';

/** Nodes that are asked: what is in the way of three is in the way of most. */
const MOST_NODES = 3;
const MOST_ADDRESSES = 16;
const TIMEOUT_MS = 6000;
const MOST_PROBLEM_LENGTH = 300;

/** What one node of ours has seen of another cluster's. */
export interface ReachSight {
  /** Name of our node. */
  readonly from: string;
  readonly address: string;
  /** What is in the way, for people; empty: nothing that could be seen. */
  readonly problem: string;
}

/** One session of a node that takes questions. */
export interface ProbedNode {
  /** Takes an answer as it came. False: it cannot be read. */
  take(message: unknown): boolean;
  close(): void;
}

/** Asks nodes. */
export interface NodeProber {
  /** Asks a node from now on. */
  open(name: string, send: (message: object) => void): ProbedNode;
  /** What our nodes see; those that do not answer in time see nothing. Undefined: none has a session here. */
  ask(
    question: { readonly addresses: readonly string[]; readonly udpPort: number | undefined },
    signal: AbortSignal,
  ): Promise<readonly ReachSight[] | undefined>;
}

const resultSchema = z.object({
  id: z.coerce.number(),
  nodes: z
    .array(
      z.object({ address: z.string(), problem: z.string().max(MOST_PROBLEM_LENGTH).default('') }),
    )
    .max(MOST_ADDRESSES)
    .default([]),
});

type Answers = z.infer<typeof resultSchema>['nodes'];

/** A session of a node, with what it was asked and has not answered: nobody answers for another one. */
interface Seat {
  readonly name: string;
  readonly send: (message: object) => void;
  readonly waiting: Map<number, (answers: Answers) => void>;
}

/** Makes one for a registry. */
export function createNodeProber({ clock }: { readonly clock: Clock }): NodeProber {
  const nodes = new Set<Seat>();
  let lastId = 0;

  const askOne = async (
    { name, send, waiting }: Seat,
    probe: { readonly addresses: readonly string[]; readonly udp_port: number },
    signal: AbortSignal,
  ): Promise<readonly ReachSight[]> => {
    lastId += 1;
    const id = lastId;
    const done = new AbortController();
    let sights: readonly ReachSight[] = [];
    waiting.set(id, (answers) => {
      // A node says something of what it was asked for, and of nothing else.
      sights = answers
        .filter(({ address }) => probe.addresses.includes(address))
        .map((answer) => ({ from: name, ...answer }));
      done.abort();
    });
    send({ probe: { id, ...probe } });
    await clock.sleep(TIMEOUT_MS, AbortSignal.any([signal, done.signal])).catch(() => undefined);
    waiting.delete(id);
    signal.throwIfAborted();
    return sights;
  };
  return {
    open(name, send) {
      const seat: Seat = { name, send, waiting: new Map() };
      nodes.add(seat);
      return {
        take(message) {
          const parsed = resultSchema.safeParse(message);
          if (!parsed.success) return false;
          seat.waiting.get(parsed.data.id)?.(parsed.data.nodes);
          return true;
        },
        close: () => void nodes.delete(seat),
      };
    },
    async ask({ addresses, udpPort = 0 }, signal) {
      if (nodes.size === 0) return undefined;
      const probe = { addresses: addresses.slice(0, MOST_ADDRESSES), udp_port: udpPort };
      const asked = [...nodes].slice(0, MOST_NODES);
      return (await Promise.all(asked.map((node) => askOne(node, probe, signal)))).flat();
    },
  };
}
