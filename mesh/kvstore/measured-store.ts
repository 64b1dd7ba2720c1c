/** A store whose calls are counted and timed, for metrics; watches pass through as they are. */
import type { Clock } from '../runtime/clock.ts';
import { KvError, type KvStore } from './kvstore.ts';

/** Upper bounds of the durations in seconds: Prometheus' defaults, which Cilium's metric has as well. */
export const OPERATION_BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10] as const;

/** What a call did, in the words of Cilium's metrics (`pkg/kvstore/metrics.go`). */
export interface KvOperation {
  /** What it was about, such as `nodes/v1`. There is a fixed number of them. */
  readonly scope: string;
  readonly kind: 'read' | 'set' | 'delete';
  readonly action:
    | 'Get'
    | 'ListPrefix'
    | 'Count'
    | 'Update'
    | 'Transact'
    | 'Delete'
    | 'DeletePrefix';
  readonly outcome: 'success' | 'fail';
}

/** Durations of the calls of one sort. */
export interface OperationDurations {
  readonly operation: KvOperation;
  /** One a bound, and one for what is above. */
  readonly counts: Float64Array;
  sum: number;
}

/** Calls to stores since the process began. */
export interface KvStatistics {
  add(operation: KvOperation, seconds: number): void;
  /** A call failed because the server had no quorum, or could not be reached. */
  addUnavailable(code: string): void;
  durations(): Iterable<OperationDurations>;
  /** Calls that failed for lack of a server, by code. */
  readonly unavailable: ReadonlyMap<string, number>;
}

/** Makes empty statistics. */
export function createKvStatistics(): KvStatistics {
  const byOperation = new Map<string, OperationDurations>();
  const unavailable = new Map<string, number>();
  return {
    add(operation, seconds) {
      const { scope, kind, action, outcome } = operation;
      const id = `${scope} ${kind} ${action} ${outcome}`;
      let found = byOperation.get(id);
      if (found === undefined) {
        found = { operation, counts: new Float64Array(OPERATION_BOUNDS.length + 1), sum: 0 };
        byOperation.set(id, found);
      }
      const bucket = OPERATION_BOUNDS.findIndex((bound) => seconds <= bound);
      const index = bucket < 0 ? OPERATION_BOUNDS.length : bucket;
      found.counts[index] = (found.counts[index] ?? 0) + 1;
      found.sum += seconds;
    },
    addUnavailable(code) {
      unavailable.set(code, (unavailable.get(code) ?? 0) + 1);
    },
    durations: () => byOperation.values(),
    unavailable,
  };
}

/** The same store, whose calls are counted. A call that was aborted by its caller counts nowhere. */
export function measureStore(
  store: KvStore,
  { statistics, clock }: { readonly statistics: KvStatistics; readonly clock: Clock },
): KvStore {
  const measure = async <Result>(
    operation: Omit<KvOperation, 'outcome'>,
    call: () => Promise<Result>,
  ): Promise<Result> => {
    const began = clock.monotonic();
    const end = (outcome: KvOperation['outcome']): void =>
      statistics.add({ ...operation, outcome }, (clock.monotonic() - began) / 1000);
    try {
      const result = await call();
      end('success');
      return result;
    } catch (error) {
      if (error instanceof KvError) {
        end('fail');
        if (error.code === 'unavailable' || error.code === 'timeout') {
          statistics.addUnavailable(error.code);
        }
      }
      throw error;
    }
  };
  const read = (key: string, action: KvOperation['action']) =>
    ({ scope: scopeOfKey(key), kind: 'read', action }) as const;
  return {
    ...store,
    get clusterId() {
      return store.clusterId;
    },
    get: (key, options) => measure(read(key, 'Get'), () => store.get(key, options)),
    list: (prefix, options) =>
      measure(read(prefix, 'ListPrefix'), () => store.list(prefix, options)),
    count: (prefix, options) => measure(read(prefix, 'Count'), () => store.count(prefix, options)),
    keys: (prefix, options) =>
      measure(read(prefix, 'ListPrefix'), () => store.keys(prefix, options)),
    put: (key, value, options) =>
      measure({ scope: scopeOfKey(key), kind: 'set', action: 'Update' }, () =>
        store.put(key, value, options),
      ),
    delete: (key, options) =>
      measure({ scope: scopeOfKey(key), kind: 'delete', action: 'Delete' }, () =>
        store.delete(key, options),
      ),
    deletePrefix: (prefix, options) =>
      measure({ scope: scopeOfKey(prefix), kind: 'delete', action: 'DeletePrefix' }, () =>
        store.deletePrefix(prefix, options),
      ),
    transact(transaction, options) {
      const [first] = transaction.then;
      const scope = first === undefined ? OTHER : scopeOfKey(first.key);
      return measure({ scope, kind: 'set', action: 'Transact' }, () =>
        store.transact(transaction, options),
      );
    },
  };
}

const OTHER = 'other';
const KINDS = new Set([
  'nodes',
  'ip',
  'identities',
  'services',
  'serviceexports',
  'endpointslices',
]);

/** What a key or prefix is about, one of a fixed set (Cilium: `pkg/kvstore`, `GetScopeFromKey`). */
export function scopeOfKey(key: string): string {
  const [root, second = '', third = '', version = ''] = key.split('/', 4);
  if (root === 'isthmus') return second === '' ? OTHER : `isthmus/${second}`;
  if (root !== 'cilium') return OTHER;
  switch (second) {
    case 'state':
    case 'cache':
      return KINDS.has(third) ? `${third}/${version}` : OTHER;
    case 'synced':
    case 'cluster-config':
      return second;
    case '.heartbeat':
      return 'heartbeat';
    default:
      return OTHER;
  }
}
