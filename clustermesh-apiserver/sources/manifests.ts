/** A cluster read from a directory of Kubernetes YAML: what stands in a file exists, what is gone from it is deleted. */
import { LineCounter, parseAllDocuments } from 'yaml';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { watchDirectory } from '../../mesh/runtime/watch-directory.ts';
import { type ClusterObject, ObjectError, objectId, parseObject } from './objects.ts';

/** A change of the cluster's objects. `synced` comes once, when everything there was at the beginning has been told. */
export type ObjectEvent =
  | { readonly kind: 'upsert'; readonly object: ClusterObject }
  | { readonly kind: 'delete'; readonly object: ClusterObject }
  | { readonly kind: 'synced' };

/** Something in a file that could not be used. */
export interface ManifestProblem {
  /** `web.yaml`, or `web.yaml document 2 (line 14)`. */
  readonly where: string;
  readonly message: string;
}

export interface ManifestOptions {
  readonly signal: AbortSignal;
  readonly rescanMs?: number;
  readonly clock?: Clock;
  /** Called with everything that is wrong now, each time that changes. */
  readonly onProblems?: (problems: readonly ManifestProblem[]) => void;
}

interface ParsedFile {
  readonly objects: ReadonlyMap<string, ClusterObject>;
  readonly problems: readonly ManifestProblem[];
}

/**
 * Watches a directory of `*.yaml`, `*.yml` and `*.json` files, each with any number of documents or a `List`. Yields batches: one
 * batch is what one look at the directory changed. A document that cannot be used keeps what the same file last said of
 * that object, as does a file that is not YAML; only a removed file or document removes objects.
 */
export async function* watchManifests(
  directory: string,
  options: ManifestOptions,
): AsyncGenerator<readonly ObjectEvent[]> {
  const files = new Map<string, ParsedFile>();
  const contents = new Map<string, Buffer>();
  const unreadable = new Map<string, string>();
  let shown = new Map<string, ClusterObject>();
  let first = true;
  const watching = {
    signal: options.signal,
    ...(options.rescanMs === undefined ? {} : { rescanMs: options.rescanMs }),
    ...(options.clock === undefined ? {} : { clock: options.clock }),
    onError: (error: Error, file: string | undefined) =>
      unreadable.set(file ?? directory, error.message),
  };
  for await (const snapshot of watchDirectory(directory, watching)) {
    for (const name of files.keys()) {
      if (!snapshot.has(name)) {
        files.delete(name);
        contents.delete(name);
      }
    }
    for (const [name, content] of snapshot) {
      if (!/\.(ya?ml|json)$/.test(name) || name.startsWith('.')) continue;
      if (contents.get(name)?.equals(content) === true) continue;
      contents.set(name, content);
      files.set(name, parseFile(name, content.toString('utf8'), files.get(name)));
    }
    const { objects, problems } = combine(files);
    for (const [where, message] of unreadable) problems.push({ where, message });
    unreadable.clear();
    const events = difference(shown, objects);
    shown = objects;
    if (first) events.push({ kind: 'synced' });
    first = false;
    options.onProblems?.(problems);
    if (events.length > 0) yield events;
  }
}

/** Parses one file; what is wrong keeps what `previous` held for it. Exported for tests of single files. */
export function parseFile(name: string, text: string, previous?: ParsedFile): ParsedFile {
  const objects = new Map<string, ClusterObject>();
  const problems: ManifestProblem[] = [];
  const lines = new LineCounter();
  const documents = parseAllDocuments(text, { lineCounter: lines });
  const list = Array.isArray(documents) ? documents : [];
  for (const [index, document] of list.entries()) {
    const start = lines.linePos(document.contents?.range?.[0] ?? document.range?.[0] ?? 0).line;
    const where = list.length > 1 ? `${name} document ${index + 1} (line ${start})` : name;
    const [error] = document.errors;
    if (error !== undefined) {
      problems.push({ where, message: `not YAML: ${error.message.split('\n')[0]}` });
      continue;
    }
    let value: unknown;
    try {
      value = document.toJS({ maxAliasCount: 100 });
    } catch (cause) {
      // A few lines of aliases of aliases can stand for more than fits into memory.
      problems.push({
        where,
        message: `not usable: ${cause instanceof Error ? cause.message : String(cause)}`,
      });
      continue;
    }
    for (const item of itemsOf(value)) readDocument(item, where, { objects, problems, previous });
  }
  // A file whose YAML is broken may be half-written: what it said before stands until it can be read again.
  const broken = list.some((document) => document.errors.length > 0);
  if (broken)
    for (const [id, object] of previous?.objects ?? [])
      if (!objects.has(id)) objects.set(id, object);
  return { objects, problems };
}

function readDocument(
  item: unknown,
  where: string,
  into: {
    objects: Map<string, ClusterObject>;
    problems: ManifestProblem[];
    previous: ParsedFile | undefined;
  },
): void {
  try {
    const object = parseObject(item);
    into.objects.set(objectId(object), object);
  } catch (error) {
    if (!(error instanceof ObjectError)) throw error;
    const id = nameOf(item);
    const label = id === undefined ? '' : `${id}: `;
    const kept = id === undefined ? undefined : into.previous?.objects.get(id);
    if (id !== undefined && kept !== undefined) into.objects.set(id, kept);
    into.problems.push({
      where,
      message: `${label}${error.message}${kept === undefined ? '' : '; its last good version stays in force'}`,
    });
  }
}

function itemsOf(value: unknown): readonly unknown[] {
  if (value === null || value === undefined) return [];
  if (typeof value === 'object' && 'kind' in value && value.kind === 'List' && 'items' in value) {
    return Array.isArray(value.items) ? value.items : [value];
  }
  return [value];
}

/** Identity of an object that did not parse, as far as it says one. */
function nameOf(item: unknown): string | undefined {
  if (typeof item !== 'object' || item === null || !('kind' in item) || !('metadata' in item))
    return undefined;
  const { kind, metadata } = item;
  if (
    typeof kind !== 'string' ||
    typeof metadata !== 'object' ||
    metadata === null ||
    !('name' in metadata)
  ) {
    return undefined;
  }
  const clusterwide = kind === 'Node' || kind === 'Namespace';
  if (clusterwide) return `${kind} ${String(metadata.name)}`;
  const own = kind === 'CiliumClusterwideNetworkPolicy' ? '' : 'default';
  const namespace =
    'namespace' in metadata && kind !== 'CiliumClusterwideNetworkPolicy' ? metadata.namespace : own;
  return `${kind} ${String(namespace)}/${String(metadata.name)}`;
}

function combine(files: ReadonlyMap<string, ParsedFile>): {
  objects: Map<string, ClusterObject>;
  problems: ManifestProblem[];
} {
  const objects = new Map<string, ClusterObject>();
  const owners = new Map<string, string>();
  const problems: ManifestProblem[] = [];
  for (const [name, file] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    problems.push(...file.problems);
    for (const [id, object] of file.objects) {
      const owner = owners.get(id);
      if (owner !== undefined) {
        problems.push({
          where: name,
          message: `${id} stands in ${owner} already: the first file in order of names wins`,
        });
        continue;
      }
      owners.set(id, name);
      objects.set(id, object);
    }
  }
  return { objects, problems };
}

function difference(
  before: ReadonlyMap<string, ClusterObject>,
  after: ReadonlyMap<string, ClusterObject>,
): ObjectEvent[] {
  const events: ObjectEvent[] = [];
  for (const [id, object] of before) if (!after.has(id)) events.push({ kind: 'delete', object });
  for (const [id, object] of after) {
    // Objects of a file that did not change are the same object, so only files that did are compared in depth.
    const old = before.get(id);
    if (old === object || JSON.stringify(old) === JSON.stringify(object)) continue;
    events.push({ kind: 'upsert', object });
  }
  return events;
}
