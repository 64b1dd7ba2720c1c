import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type ClusterName, parseClusterName } from '../../mesh/wire/ids.ts';

const SCHEMA = 1;

const fileSchema = z.object({
  schema: z.literal(SCHEMA),
  drained: z.array(z.object({ cluster: z.string(), since: z.number() })),
});

/** A cluster that an operator took out of use. */
export interface Drain {
  readonly cluster: ClusterName;
  /** Milliseconds since 1970. */
  readonly since: number;
}

/** Clusters whose backends are used last because somebody said so; kept over restarts of the agent. */
export interface Drains {
  has(cluster: ClusterName): boolean;
  list(): readonly Drain[];
  /** Adds a cluster; false when it was there. Throws when it cannot be kept: then nothing has changed. */
  add(cluster: ClusterName, since: number): boolean;
  /** Takes it away; false when it was not there. Throws when that cannot be kept. */
  remove(cluster: ClusterName): boolean;
}

/** Opens `<stateDir>/drained.json`. A file that cannot be read is reported, and as if nobody were drained. */
export function openDrains(stateDir: string, logger: Logger): Drains {
  const file = join(stateDir, 'drained.json');
  let drains = readDrains(file, logger);

  const save = (next: ReadonlyMap<ClusterName, Drain>): void => {
    const content = { schema: SCHEMA, drained: [...next.values()] };
    writeFileSync(`${file}.tmp`, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 });
    renameSync(`${file}.tmp`, file);
    drains = next;
  };

  return {
    has: (cluster) => drains.has(cluster),
    list: () => [...drains.values()],
    add(cluster, since) {
      if (drains.has(cluster)) return false;
      save(new Map([...drains, [cluster, { cluster, since }]]));
      return true;
    },
    remove(cluster) {
      if (!drains.has(cluster)) return false;
      const next = new Map(drains);
      next.delete(cluster);
      save(next);
      return true;
    },
  };
}

function readDrains(file: string, logger: Logger): ReadonlyMap<ClusterName, Drain> {
  try {
    const { drained } = fileSchema.parse(JSON.parse(readFileSync(file, 'utf8')));
    return new Map(
      drained.map(({ cluster, since }) => {
        const name = parseClusterName(cluster);
        return [name, { cluster: name, since }];
      }),
    );
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    if (!isMissing) logger.error({ file, err: error }, 'drained clusters cannot be read, none is');
    return new Map();
  }
}
