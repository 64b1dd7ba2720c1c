/** A cluster read from a directory of Kubernetes YAML: what stands in a file exists, what is gone from it is deleted. */
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { isScalar, isSeq, LineCounter, parseAllDocuments } from 'yaml';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { FreshLook } from '../../mesh/runtime/fresh-look.ts';
import { fieldOf, policyLines } from '../../mesh/runtime/manifest-lines.ts';
import { watchDirectory } from '../../mesh/runtime/watch-directory.ts';
import { POLICY_KINDS } from '../../mesh/wire/local-policy.ts';
import type { ObjectEvent } from './object-event.ts';
import {
  CLUSTER_SCOPED_KINDS,
  type ClusterObject,
  type ClusterObjectKind,
  MANIFEST_KINDS,
  ObjectError,
  objectId,
  type PolicyObject,
  parseObject,
} from './objects.ts';

/** Something in a file that could not be used. */
export interface ManifestProblem {
  /** `web.yaml`, or `web.yaml document 2 (line 14)`. */
  readonly where: string;
  readonly message: string;
}

/** Options of `watchManifests`. */
export interface ManifestOptions {
  readonly signal: AbortSignal;
  /** Kinds that are taken; an object of another is a problem. Default: those that a cluster without Kubernetes has. */
  readonly kinds?: readonly ClusterObjectKind[];
  readonly rescanMs?: number;
  readonly clock?: Clock;
  /** By which somebody asks for a look at the directory at once. */
  readonly freshLook?: FreshLook;
  /** Called with everything that is wrong now, each time that may have changed. */
  readonly onProblems?: (problems: readonly ManifestProblem[]) => void;
  /** Called when the directory or a file cannot be read, once until the reason changes; what it held stays in force. */
  readonly onUnreadable?: (path: string, error: Error) => void;
}

const NEWLINE = 0x0a;
/** More aliases than this in one document are an attempt to exhaust memory. */
const MAX_ALIASES = 100;

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
  const { kinds = MANIFEST_KINDS } = options;
  const files = new Map<string, ParsedFile>();
  /** What each file held when it was last taken. */
  const contents = new Map<string, Buffer>();
  const halfWritten = new Set<string>();
  let shown = new Map<string, ClusterObject>();
  let first = true;
  const watching = {
    signal: options.signal,
    ...(options.rescanMs === undefined ? {} : { rescanMs: options.rescanMs }),
    ...(options.clock === undefined ? {} : { clock: options.clock }),
    ...(options.freshLook === undefined ? {} : { freshLook: options.freshLook }),
    onError: (error: Error, file: string | undefined) =>
      options.onUnreadable?.(file === undefined ? directory : join(directory, file), error),
  };
  for await (const snapshot of watchDirectory(directory, watching)) {
    for (const name of [...files.keys()]) {
      if (!snapshot.has(name)) {
        files.delete(name);
        contents.delete(name);
        halfWritten.delete(name);
      }
    }
    for (const [name, content] of snapshot) {
      if (!/\.(ya?ml|json)$/.test(name) || name.startsWith('.')) continue;
      const before = contents.get(name);
      if (before?.equals(content) === true && !halfWritten.delete(name)) continue;
      const previous = files.get(name);
      if (previous !== undefined && before !== undefined && isHalfWritten(content, before)) {
        const message =
          'half written or empty: what it said before stays in force; remove the file to remove its objects';
        files.set(name, { ...previous, problems: [{ where: name, message }] });
        halfWritten.add(name);
        continue;
      }
      halfWritten.delete(name);
      // A large directory takes seconds to parse: others shall have their turn.
      await setImmediate();
      contents.set(name, content);
      files.set(name, parseFile(name, content.toString('utf8'), { previous, kinds }));
    }
    const { objects, problems } = combine(files);
    const events = difference(shown, objects);
    shown = objects;
    if (first) events.push({ kind: 'synced', kinds });
    first = false;
    options.onProblems?.(problems);
    if (events.length > 0) yield events;
  }
}

/** Whether a file looks as if its writer were in the middle: emptied, or cut off inside a line of what it was. */
function isHalfWritten(content: Buffer, before: Buffer): boolean {
  if (content.length === 0) return before.length > 0;
  const isBeginning =
    content.length < before.length && before.subarray(0, content.length).equals(content);
  return isBeginning && content.at(-1) !== NEWLINE && before.at(-1) === NEWLINE;
}

/** Parses one file; what is wrong keeps what `previous` held for it. Exported for tests of single files. */
export function parseFile(
  name: string,
  text: string,
  options: {
    readonly previous?: ParsedFile | undefined;
    readonly kinds?: readonly ClusterObjectKind[];
  } = {},
): ParsedFile {
  const { previous, kinds = MANIFEST_KINDS } = options;
  const reading: Reading = {
    objects: new Map(),
    problems: [],
    previous,
    kinds,
    isIncomplete: false,
  };
  const lines = new LineCounter();
  const parsed = parseAllDocuments(text, { lineCounter: lines });
  const documents = Array.isArray(parsed) ? parsed : [];
  for (const [index, document] of documents.entries()) {
    const start = lines.linePos(document.contents?.range?.[0] ?? document.range?.[0] ?? 0).line;
    const where = documents.length > 1 ? `${name} document ${index + 1} (line ${start})` : name;
    let value: unknown;
    try {
      const [error] = document.errors;
      if (error !== undefined) throw error;
      value = document.toJS({ maxAliasCount: MAX_ALIASES });
    } catch (error) {
      // Broken YAML, or aliases that lead nowhere or grow without end.
      const why = error instanceof Error ? error.message.split('\n')[0] : String(error);
      reading.problems.push({ where, message: `not YAML: ${why}` });
      reading.isIncomplete = true;
      continue;
    }
    const nodes = nodesOf(document.contents);
    for (const [index, item] of itemsOf(value).entries()) {
      const linesOf = (): Record<string, number> => policyLines(nodes[index], lines);
      readDocument(item, { where, file: name, linesOf }, reading);
    }
  }
  // Which objects the broken part was to describe nobody can tell: all that stood in the file stay.
  if (reading.isIncomplete) {
    for (const [id, object] of previous?.objects ?? []) {
      if (!reading.objects.has(id)) reading.objects.set(id, object);
    }
  }
  return reading;
}

/** Kinds without a namespace whose objects have one here, which is empty. */
const NAMELESS_SPACE: readonly ClusterObjectKind[] = [
  'CiliumClusterwideNetworkPolicy',
  'CiliumCIDRGroup',
];

/** A file in the course of being read. */
interface Reading {
  readonly objects: Map<string, ClusterObject>;
  readonly problems: ManifestProblem[];
  readonly previous: ParsedFile | undefined;
  readonly kinds: readonly ClusterObjectKind[];
  /** Something in it could not be attributed to an object. */
  isIncomplete: boolean;
}

/** Where an object stands. */
interface Place {
  /** In words. */
  readonly where: string;
  readonly file: string;
  readonly linesOf: () => Record<string, number>;
}

function readDocument(item: unknown, { where, file, linesOf }: Place, reading: Reading): void {
  try {
    const object = parseObject(item, reading.kinds);
    reading.objects.set(
      objectId(object),
      isPolicy(object) ? { ...object, origin: { file, lines: linesOf() } } : object,
    );
  } catch (error) {
    if (!(error instanceof ObjectError)) throw error;
    const id = nameOf(item);
    const kept = id === undefined ? undefined : reading.previous?.objects.get(id);
    if (id === undefined) reading.isIncomplete = true;
    else if (kept !== undefined) reading.objects.set(id, kept);
    const label = id === undefined ? '' : `${id}: `;
    const consequence = kept === undefined ? '' : '; its last good version stays in force';
    reading.problems.push({ where, message: `${label}${error.message}${consequence}` });
  }
}

function isPolicy(object: ClusterObject): object is PolicyObject {
  return POLICY_KINDS.some((kind) => kind === object.kind);
}

/** The nodes of what `itemsOf` makes of the same document. */
function nodesOf(document: unknown): readonly unknown[] {
  const kind = fieldOf(document, 'kind');
  const isList = isScalar(kind) && kind.value === 'List';
  const items = isList ? fieldOf(document, 'items') : undefined;
  return isSeq(items) ? items.items : [document];
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
  if (NAMELESS_SPACE.some((candidate) => candidate === kind)) {
    return `${kind} /${String(metadata.name)}`;
  }
  if (CLUSTER_SCOPED_KINDS.some((candidate) => candidate === kind)) {
    return `${kind} ${String(metadata.name)}`;
  }
  const namespace = 'namespace' in metadata ? metadata.namespace : 'default';
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
