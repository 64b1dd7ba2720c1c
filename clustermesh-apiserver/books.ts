/** The nodes and machines of a cluster, as an apiserver keeps them. */
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { Publisher } from './publish/publisher.ts';
import { createMachineBook, type MachineBook } from './registry/machine-book.ts';
import { MACHINES_PREFIX } from './registry/machine-record.ts';
import { createNodeBook, type NodeBook } from './registry/node-book.ts';
import { ownAddresses } from './registry/own-addresses.ts';
import { createSessionBoard, MACHINE_SESSIONS_PREFIX } from './registry/session-board.ts';

const DEFAULT_VM_SESSION_GRACE_MS = 60_000;

/** Makes both books, which publish by `publisher`; nothing is read before their `load`. */
export function createBooks(options: {
  readonly store: KvStore;
  readonly publisher: Publisher;
  readonly nodeSessionGraceMs: number;
  /** Default 60,000. */
  readonly vmSessionGraceMs?: number | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}): { readonly book: NodeBook; readonly machines: MachineBook } {
  const { store, publisher, clock, logger } = options;
  const fence = () => publisher.fence;
  const book = createNodeBook({
    store,
    publish: publisher.setNodeFacts,
    findConflict: publisher.findNodeConflict,
    graceMs: options.nodeSessionGraceMs,
    replicas: { board: createSessionBoard({ store, clock, logger }), fence },
    clock,
    logger,
  });
  const prefixes = { sessions: MACHINE_SESSIONS_PREFIX, kept: MACHINES_PREFIX };
  const machines = createMachineBook({
    store,
    publish: publisher.setMachine,
    findConflict: publisher.findMachineConflict,
    checksOf: publisher.checksOf,
    ownAddresses,
    graceMs: options.vmSessionGraceMs ?? DEFAULT_VM_SESSION_GRACE_MS,
    replicas: { board: createSessionBoard({ store, prefixes, clock, logger }), fence },
    clock,
    logger,
  });
  return { book, machines };
}
