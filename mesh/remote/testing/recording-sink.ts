import { changeName } from '../accept.ts';
import type { ClusterChange, ClusterRef, ClusterSink } from '../cluster-sink.ts';

/** A sink that keeps what it is given: what stands now by `kind name`, and everything that happened. */
export interface RecordingSink extends ClusterSink {
  readonly held: ReadonlyMap<string, NonNullable<ClusterChange['value']>>;
  /** `+kind name`, `-kind name`, `synced kind`, `removed`. */
  readonly log: string[];
}

/** Makes an empty one. */
export function createRecordingSink(): RecordingSink {
  const held = new Map<string, NonNullable<ClusterChange['value']>>();
  const log: string[] = [];
  return {
    held,
    log,
    apply(_cluster: ClusterRef, change) {
      const name = `${change.kind} ${changeName(change)}`;
      if (change.value === undefined) held.delete(name);
      else held.set(name, change.value);
      log.push(`${change.value === undefined ? '-' : '+'}${name}`);
    },
    synced(_cluster, kind) {
      log.push(`synced ${kind}`);
    },
    removed() {
      log.push('removed');
    },
  };
}
