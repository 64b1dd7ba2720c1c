import type {
  Datapath,
  DatapathCounter,
  DatapathTable,
  EndpointEntry,
  FrontendEntry,
  FrontendKey,
  IpcacheEntry,
  PolicyEntry,
} from '../datapath/desired.ts';
import { inPolicyOrder } from '../datapath/policy-order.ts';

/** One write as a table of the twin saw it, in order over all tables. */
export interface MemoryWrite {
  readonly table: DatapathTable<never>['name'];
  readonly kind: 'upsert' | 'delete';
  readonly key: string;
}

/** A table of the in-memory datapath: what a test may break or look into. */
export interface MemoryTable<Row extends Key, Key> extends DatapathTable<Row, Key> {
  /** Rows for which this says true are refused, as a full map would. Undefined: none. */
  refuse: ((row: Key) => boolean) | undefined;
  get(key: string): Row | undefined;
}

/** An in-memory twin of `Datapath` for unit tests: same contract, no kernel. */
export interface MemoryDatapath extends Datapath {
  readonly ipcache: MemoryTable<IpcacheEntry, Pick<IpcacheEntry, 'prefix'>>;
  readonly endpoints: MemoryTable<EndpointEntry, Pick<EndpointEntry, 'endpointId' | 'addresses'>>;
  readonly policy: MemoryTable<PolicyEntry, Omit<PolicyEntry, 'verdict'>>;
  readonly services: MemoryTable<FrontendEntry, FrontendKey>;
  /** Every write and attachment so far, oldest first. */
  readonly log: MemoryLogEntry[];
  readonly attached: ReadonlySet<string>;
  readonly uninstalled: boolean;
  /** Counters that `counters()` returns. */
  counterRows: DatapathCounter[];
  /** What `detached()` finds. */
  detachedParts: string[];
}

/** What happened to the twin, in order. */
export type MemoryLogEntry =
  | MemoryWrite
  | { readonly kind: 'attach' | 'detach'; readonly key: string };

/** Makes an empty datapath. Handing the same one to a second engine is a restart of the agent with pinned maps. */
export function createMemoryDatapath(): MemoryDatapath {
  const log: MemoryLogEntry[] = [];
  const attached = new Set<string>();
  let uninstalled = false;
  return {
    log,
    attached,
    get uninstalled() {
      return uninstalled;
    },
    counterRows: [],
    detachedParts: [],
    ipcache: createMemoryTable('ipcache', (row) => row.prefix, log),
    endpoints: createMemoryTable('endpoints', (row) => String(row.endpointId), log),
    policy: createMemoryPolicyTable(log),
    services: createMemoryTable(
      'services',
      (row) => `${row.protocol}/${row.address}/${row.port}/${row.scope}`,
      log,
    ),
    attachEndpoint(hostInterface) {
      attached.add(hostInterface);
      log.push({ kind: 'attach', key: hostInterface });
    },
    detachEndpoint(hostInterface) {
      attached.delete(hostInterface);
      log.push({ kind: 'detach', key: hostInterface });
    },
    counters() {
      return this.counterRows;
    },
    capacities: () => [{ map: 'mesh_ipcache4', maxEntries: 1000 }],
    detached() {
      return this.detachedParts;
    },
    uninstall: async () => {
      uninstalled = true;
    },
    [Symbol.asyncDispose]: async () => undefined,
  };
}

function createMemoryPolicyTable(log: MemoryLogEntry[]): MemoryDatapath['policy'] {
  const table: MemoryDatapath['policy'] = createMemoryTable(
    'policy',
    (row) =>
      `${row.endpointId}/${row.direction}/${row.identity}/${row.protocol}/${row.port}/${row.portPrefixBits}`,
    log,
  );
  table.inOrder = (changes) =>
    inPolicyOrder(changes, (key) => table.get(table.keyOf(key))?.verdict);
  return table;
}

function createMemoryTable<Row extends Key, Key>(
  name: DatapathTable<never>['name'],
  keyOf: (row: Key) => string,
  log: MemoryLogEntry[],
): MemoryTable<Row, Key> {
  const rows = new Map<string, Row>();
  return {
    name,
    refuse: undefined,
    get: (key) => rows.get(key),
    keyOf,
    rows: () => [...rows.values()],
    apply({ upserts, deletes }) {
      let failed: string | undefined;
      for (const row of upserts) {
        const key = keyOf(row);
        if (this.refuse?.(row)) {
          failed ??= key;
          continue;
        }
        rows.set(key, row);
        log.push({ table: name, kind: 'upsert', key });
      }
      for (const row of deletes) {
        const key = keyOf(row);
        if (this.refuse?.(row)) {
          failed ??= key;
          continue;
        }
        rows.delete(key);
        log.push({ table: name, kind: 'delete', key });
      }
      if (failed !== undefined)
        throw new Error(`cannot write ${name} ${failed}: refused by the test`);
    },
  };
}
