import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from '../runtime/log.ts';
import { type ClusterId, type ClusterName, parseClusterId, parseClusterName } from '../wire/ids.ts';

/** Ids that clusters had, kept over restarts: so that rows of a peer that cannot be reached are known to be its own. */
export interface KnownPeers {
  idOf(name: ClusterName): ClusterId | undefined;
  learn(name: ClusterName, id: ClusterId): void;
  forget(name: ClusterName): void;
  /** Writes what has changed since the last time. Absent: nothing is kept. */
  save?(): void;
}

/** Opens `<stateDir>/peers.json`. What cannot be read is as if nothing were known: then nothing is pruned too early. */
export function openKnownPeers(stateDir: string, logger: Logger): KnownPeers {
  const file = join(stateDir, 'peers.json');
  const ids = new Map<ClusterName, ClusterId>();
  try {
    const parsed: unknown = JSON.parse(readFileSync(file, 'utf8'));
    for (const [name, id] of Object.entries(parsed ?? {}))
      ids.set(parseClusterName(name), parseClusterId(id));
  } catch (error) {
    ids.clear();
    const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    if (!isMissing) logger.warn({ file, err: error }, 'ids of known peers cannot be read');
  }
  let isChanged = false;
  const save = (): void => {
    if (!isChanged) return;
    isChanged = false;
    try {
      writeFileSync(`${file}.tmp`, `${JSON.stringify(Object.fromEntries(ids), null, 2)}\n`, {
        mode: 0o600,
      });
      renameSync(`${file}.tmp`, file);
    } catch (error) {
      logger.warn({ file, err: error }, 'ids of known peers cannot be written');
    }
  };
  return {
    idOf: (name) => ids.get(name),
    learn(name, id) {
      if (ids.get(name) === id) return;
      ids.set(name, id);
      isChanged = true;
    },
    forget(name) {
      isChanged = ids.delete(name) || isChanged;
    },
    save,
  };
}
