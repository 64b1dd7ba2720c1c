/** How the kinds are doing that a cluster is published from. */
import type { ReflectorStatus } from '../kubernetes/reflector.ts';
import type { ClusterObjectKind } from './objects.ts';

/** One kind. */
export interface KindReport {
  readonly kind: ClusterObjectKind;
  /** `not-installed`: there is none in this cluster, and need not be. */
  readonly state: ReflectorStatus['state'] | 'not-installed';
  /** What is wrong and what to do; empty when nothing is. */
  readonly reason: string;
  /** Milliseconds since 1970. */
  readonly since: number;
  /** Whether all its objects have been told. What was told stays published, whatever becomes of it later. */
  readonly complete: boolean;
  readonly objects: number;
  /** Objects that went with their CustomResourceDefinition, and stay published for a time. */
  readonly kept: number;
  readonly resourceVersion: string;
  /** Complete lists since the start: many of them mean that connections break. */
  readonly lists: number;
  /** Watches that were silent for too long. */
  readonly silences: number;
}

/** An object that cannot be used. */
export interface ObjectProblem {
  /** `Pod demo/web-0`. */
  readonly where: string;
  readonly message: string;
}

/** The kinds together. */
export interface KindBoard {
  set(kind: ClusterObjectKind, status: ReflectorStatus): void;
  readonly kinds: readonly KindReport[];
  /** Kinds that were never complete, and why: nothing made of them is marked as complete. */
  readonly missing: readonly string[];
  /** Kinds that were complete and cannot be followed now: what was read stays published, and grows old. */
  readonly stale: readonly string[];
  readonly problems: readonly ObjectProblem[];
}

/** Makes a board of the kinds that are read; those in `optional` need not exist in the cluster. */
export function createKindBoard(
  awaited: readonly ClusterObjectKind[],
  optional: readonly ClusterObjectKind[] = [],
): KindBoard {
  const statuses = new Map<ClusterObjectKind, ReflectorStatus>();
  const report = (kind: ClusterObjectKind): KindReport => {
    const status = statuses.get(kind);
    const isAbsent =
      optional.includes(kind) && status?.state === 'absent' && status.complete === false;
    return {
      kind,
      state: isAbsent ? 'not-installed' : (status?.state ?? 'waiting'),
      reason: isAbsent ? '' : (status?.reason ?? ''),
      since: status?.since ?? 0,
      complete: isAbsent || status?.complete === true,
      objects: status?.objects ?? 0,
      kept: status?.kept ?? 0,
      resourceVersion: status?.resourceVersion ?? '',
      lists: status?.lists ?? 0,
      silences: status?.silences ?? 0,
    };
  };
  const all = (): KindReport[] => awaited.map(report);
  const tell = ({ kind, state, reason }: KindReport): string =>
    `${kind}: ${reason === '' ? state : reason}`;
  return {
    set(kind, status) {
      statuses.set(kind, status);
    },
    get kinds() {
      return all();
    },
    get missing() {
      return all()
        .filter(({ complete }) => !complete)
        .map(tell);
    },
    get stale() {
      return all()
        .filter(({ complete, reason }) => complete && reason !== '')
        .map(tell);
    },
    get problems() {
      return [...statuses].flatMap(([kind, { problems }]) =>
        [...problems].map(([object, message]) => ({ where: `${kind} ${object}`, message })),
      );
    },
  };
}
