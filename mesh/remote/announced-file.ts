/**
 * Keeps in a file which addresses clusters may announce: what was learned of their nodes, so that a restarted process
 * knows who holds what before it has read it again, and the lists that people write.
 */
import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import { type ClusterName, parseClusterName } from '../wire/ids.ts';
import { type IpPrefix, parseIpPrefix } from '../wire/ip.ts';
import type { Announced, CidrLists } from './announced.ts';

/** The file inside the state directory. */
export const ANNOUNCED_FILE = 'announced.json';

const SCHEMA = 1;
/** How often it is looked whether people have changed the file, and how often at most it is written. */
const LOOK_EACH_MS = 5000;
const WRITE_EACH_MS = 30_000;
const FIELDS = ['pods', 'nodes', 'services', 'machines'] as const;

/** A file that follows what is learned, and is followed in what people write. */
export interface AnnouncedFile {
  /** Reads and writes until `signal` aborts, and writes once more then. */
  run(signal: AbortSignal): Promise<void>;
  /** What is wrong with the file; undefined when nothing is. What was read before stays in force. */
  readonly problem: string | undefined;
}

interface Content {
  readonly lists: ReadonlyMap<ClusterName, CidrLists>;
  readonly learned: ReadonlyMap<ClusterName, readonly IpPrefix[]>;
}

/** Opens `<stateDir>/announced.json` and tells `announced` what it says. A file that cannot be read counts as absent. */
export function openAnnouncedFile(
  stateDir: string,
  options: { readonly announced: Announced; readonly clock: Clock; readonly logger: Logger },
): AnnouncedFile {
  const { announced, clock, logger } = options;
  const path = join(stateDir, ANNOUNCED_FILE);
  let lists: Content['lists'] = new Map();
  let written = '';
  let seen = '';
  let isChanged = false;
  let writtenAt = Number.NEGATIVE_INFINITY;
  let problem: string | undefined;

  const fail = (what: string, error: unknown): void => {
    const message = `cannot ${what} ${path}: ${error instanceof Error ? error.message : String(error)}`;
    if (message !== problem)
      logger.warn({ path, reason: message }, 'ranges of clusters are not kept');
    problem = message;
  };
  /** Returns whether the file says something else than before. */
  const read = (): Content | undefined => {
    try {
      const stamp = `${statSync(path).mtimeMs}`;
      if (stamp === seen) return undefined;
      seen = stamp;
      const text = readFileSync(path, 'utf8');
      if (text === written) return undefined;
      const content = parseContent(text);
      problem = undefined;
      return content;
    } catch (error) {
      const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
      if (!isMissing) fail('use', error);
      return undefined;
    }
  };
  const write = (): void => {
    // A file that people wrote and that cannot be read is left for them to mend.
    if (problem?.startsWith('cannot use') === true) return;
    const text = formatContent({
      lists,
      learned: new Map(announced.clusters().map((name) => [name, announced.learned(name)])),
    });
    isChanged = false;
    writtenAt = clock.monotonic();
    if (text === written) return;
    try {
      writeFileSync(`${path}.tmp`, text, { mode: 0o600 });
      renameSync(`${path}.tmp`, path);
      written = text;
      seen = `${statSync(path).mtimeMs}`;
      problem = undefined;
    } catch (error) {
      fail('write', error);
    }
  };

  const first = read();
  if (first !== undefined) {
    lists = first.lists;
    if (lists.size > 0) announced.setLists(lists);
    for (const [name, ranges] of first.learned) announced.restore(name, ranges);
  }

  return {
    get problem() {
      return problem;
    },
    async run(signal) {
      const stop = announced.onChange(() => {
        isChanged = true;
      });
      while (!signal.aborted) {
        const next = read();
        if (next !== undefined) {
          lists = next.lists;
          logger.info({ path, clusters: [...lists.keys()] }, 'lists of ranges were changed');
          announced.setLists(lists);
        }
        if (isChanged && clock.monotonic() - writtenAt >= WRITE_EACH_MS) write();
        await clock.sleep(LOOK_EACH_MS, signal).catch(() => undefined);
      }
      stop();
      if (isChanged) write();
    },
  };
}

/** Parses the file. Throws an Error that names what is wrong. */
export function parseContent(text: string): Content {
  const parsed = asRecord(JSON.parse(text), 'the file');
  if (parsed.schema !== SCHEMA) {
    throw new Error(`schema ${JSON.stringify(parsed.schema)}, expected ${SCHEMA}`);
  }
  const lists = new Map<ClusterName, CidrLists>();
  const learned = new Map<ClusterName, readonly IpPrefix[]>();
  for (const [text, value] of Object.entries(asRecord(parsed.clusters ?? {}, 'clusters'))) {
    const name = parseClusterName(text);
    const cluster = asRecord(value, `clusters.${text}`);
    if (cluster.allowed !== undefined) {
      const allowed = asRecord(cluster.allowed, `clusters.${text}.allowed`);
      const unknown = Object.keys(allowed).find((key) => !FIELDS.some((field) => field === key));
      if (unknown !== undefined) {
        throw new Error(
          `clusters.${text}.allowed.${unknown}: unknown, expected ${FIELDS.join(', ')}`,
        );
      }
      const at = (field: (typeof FIELDS)[number]): readonly IpPrefix[] =>
        rangesIn(allowed[field], `clusters.${text}.allowed.${field}`);
      lists.set(name, {
        pods: at('pods'),
        nodes: at('nodes'),
        services: at('services'),
        machines: at('machines'),
      });
    }
    learned.set(name, rangesIn(cluster.learned, `clusters.${text}.learned`));
  }
  return { lists, learned };
}

function formatContent({ lists, learned }: Content): string {
  const names = [...new Set([...lists.keys(), ...learned.keys()])].sort();
  const clusters = Object.fromEntries(
    names.map((name) => [name, { allowed: lists.get(name), learned: learned.get(name) ?? [] }]),
  );
  return `${JSON.stringify({ schema: SCHEMA, clusters }, null, 2)}\n`;
}

function asRecord(value: unknown, where: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`${where}: expected an object`);
  }
  return Object.fromEntries(Object.entries(value));
}

function rangesIn(value: unknown, where: string): readonly IpPrefix[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw new Error(`${where}: expected a list of networks`);
  return value.map((text: unknown, index) => {
    try {
      return parseIpPrefix(text);
    } catch (cause) {
      throw new Error(
        `${where}[${index}]: ${cause instanceof Error ? cause.message : String(cause)}`,
        { cause },
      );
    }
  });
}
