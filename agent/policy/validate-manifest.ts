/** Policies in YAML files, each with the line of every part. */
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type ParsedNode,
  parseAllDocuments,
} from 'yaml';
import { type LocalPolicy, POLICY_KINDS, type PolicyKind } from '../../mesh/wire/local-policy.ts';

/** A file of any number of documents. */
export interface ManifestFile {
  /** As people call it. */
  readonly name: string;
  readonly text: string;
}

/** Something about a file. A `note` is no mistake. */
export interface Finding {
  readonly severity: 'problem' | 'note';
  readonly file: string;
  /** Counted from 1. */
  readonly line: number;
  /** `CiliumNetworkPolicy demo/web`, where it is about an object that says what it is. */
  readonly object: string | undefined;
  readonly message: string;
}

/** What stands in a file: policies, with `origin`, and what is wrong with the rest. */
export interface ReadManifests {
  readonly policies: readonly LocalPolicy[];
  readonly findings: readonly Finding[];
}

/** More aliases than this in one document are an attempt to exhaust memory. */
const MAX_ALIASES = 100;
/** Kubernetes' own policies nest to about 12. */
const MAX_DEPTH = 100;

/** What Kubernetes calls each kind. */
const API_VERSIONS: Readonly<Record<PolicyKind, readonly string[]>> = {
  NetworkPolicy: ['networking.k8s.io/v1'],
  CiliumNetworkPolicy: ['cilium.io/v2'],
  CiliumClusterwideNetworkPolicy: ['cilium.io/v2'],
  CiliumCIDRGroup: ['cilium.io/v2', 'cilium.io/v2alpha1'],
};
const CLUSTERWIDE: readonly PolicyKind[] = ['CiliumClusterwideNetworkPolicy', 'CiliumCIDRGroup'];

/** Names of Kubernetes objects: RFC 1123 subdomains. */
const OBJECT_NAME =
  /^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;

/** Reads one file. What cannot be used becomes a finding; never throws. */
export function readManifests(file: ManifestFile): ReadManifests {
  const policies: LocalPolicy[] = [];
  const findings: Finding[] = [];
  const lines = new LineCounter();
  const parsed = parseAllDocuments(file.text, { lineCounter: lines });
  const lineAt = (offset: number | undefined): number =>
    Math.max(1, lines.linePos(offset ?? 0).line);
  for (const document of Array.isArray(parsed) ? parsed : []) {
    for (const error of document.errors) {
      findings.push({
        severity: 'problem',
        file: file.name,
        line: lineAt(error.pos[0]),
        object: undefined,
        message: `not YAML: ${error.message.split('\n')[0]?.replace(/ at line \d+, column \d+:?$/, '')}`,
      });
    }
    if (document.errors.length > 0 || document.contents === null) continue;
    try {
      const value: unknown = document.toJS({ maxAliasCount: MAX_ALIASES });
      // Nothing between two lines of dashes is nothing.
      if (value === null) continue;
      for (const { item, node } of itemsOf(value, document)) {
        readItem(item, { file: file.name, node, lineAt, policies, findings });
      }
    } catch (error) {
      // Aliases that lead nowhere or grow without end.
      findings.push({
        severity: 'problem',
        file: file.name,
        line: lineAt(document.contents.range?.[0]),
        object: undefined,
        message: `not YAML: ${error instanceof Error ? error.message.split('\n')[0] : String(error)}`,
      });
    }
  }
  return { policies, findings };
}

interface Reading {
  readonly file: string;
  readonly node: ParsedNode | null;
  readonly lineAt: (offset: number | undefined) => number;
  readonly policies: LocalPolicy[];
  readonly findings: Finding[];
}

function itemsOf(
  value: unknown,
  document: Document.Parsed,
): { item: unknown; node: ParsedNode | null }[] {
  const node = document.contents;
  const items = isRecord(value) && value.kind === 'List' ? value.items : undefined;
  if (!Array.isArray(items) || !isMap(node)) return [{ item: value, node }];
  const list = node.get('items', true);
  return items.map((item, index) => ({
    item,
    node: isSeq(list) ? ((list.items[index] ?? null) as ParsedNode | null) : null,
  }));
}

function readItem(item: unknown, reading: Reading): void {
  const lines = linesOf(reading.node, reading.lineAt);
  const tell = (
    severity: Finding['severity'],
    path: string,
    message: string,
    object?: string,
  ): void => {
    const line = lines[path] ?? lines[''] ?? 1;
    reading.findings.push({ severity, file: reading.file, line, object, message });
  };
  if (!isRecord(item)) {
    tell(
      'problem',
      '',
      'expected a Kubernetes object: a mapping with apiVersion, kind and metadata',
    );
    return;
  }
  const { kind: kindText, apiVersion, metadata } = item;
  const kind = POLICY_KINDS.find((known) => known === kindText);
  if (kind === undefined) {
    const meant = POLICY_KINDS.find(
      (known) => known.toLowerCase() === String(kindText).toLowerCase(),
    );
    if (typeof kindText !== 'string' || kindText === '') {
      tell('problem', 'kind', 'kind is missing: expected that of a Kubernetes object');
    } else if (meant !== undefined) {
      tell('problem', 'kind', `kind is ${kindText}: expected ${meant}`);
    } else tell('note', 'kind', `${kindText} is no policy: passed over`);
    return;
  }
  const meta = isRecord(metadata) ? metadata : {};
  const isClusterwide = CLUSTERWIDE.includes(kind);
  const namespace = isClusterwide ? '' : String(meta.namespace ?? 'default');
  const name = String(meta.name ?? '');
  const object = `${kind} ${isClusterwide ? name : `${namespace}/${name}`}`;
  const before = reading.findings.length;
  if (!API_VERSIONS[kind].some((known) => known === apiVersion)) {
    const wanted = API_VERSIONS[kind].join(' or ');
    tell('problem', 'apiVersion', `apiVersion is ${text(apiVersion)}: expected ${wanted}`, object);
  }
  if (!OBJECT_NAME.test(name)) {
    const path = 'metadata.name' in lines ? 'metadata.name' : 'metadata';
    const why = 'expected small letters, digits, "-" and "."';
    tell('problem', path, `metadata.name is ${text(meta.name)}: ${why}`, object);
  }
  if (isClusterwide && meta.namespace !== undefined && meta.namespace !== '') {
    tell('problem', 'metadata.namespace', `metadata.namespace: a ${kind} has none`, object);
  } else if (!isClusterwide && !/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(namespace)) {
    const why = 'expected up to 63 small letters, digits and "-"';
    tell(
      'problem',
      'metadata.namespace',
      `metadata.namespace is ${text(namespace)}: ${why}`,
      object,
    );
  }
  if (depthOf(item) > MAX_DEPTH) {
    tell('problem', '', `more than ${MAX_DEPTH} levels of objects and lists`, object);
  }
  if (reading.findings.length > before) return;
  const generation = typeof meta.generation === 'number' ? meta.generation : 0;
  const origin = { file: reading.file, lines };
  reading.policies.push({ kind, namespace, name, generation, manifest: item, origin });
}

/** Line of every part of an object by its path: `spec.ingress[0].toPorts`; of the whole, by an empty one. */
function linesOf(
  root: ParsedNode | null,
  lineAt: (offset: number | undefined) => number,
): Record<string, number> {
  const lines: Record<string, number> = { '': lineAt(root?.range[0]) };
  const open: { path: string; node: unknown }[] = [{ path: '', node: root }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { path, node } = next;
    // What stands behind an alias has lines of its own, where it stands.
    if (isAlias(node)) continue;
    if (isMap(node)) {
      for (const { key, value } of node.items) {
        const name = isScalar(key) ? String(key.value) : String(key);
        const at = path === '' ? name : `${path}.${name}`;
        const range = isScalar(key) ? key.range : undefined;
        lines[at] = lineAt(range?.[0]);
        open.push({ path: at, node: value });
      }
    } else if (isSeq(node)) {
      for (const [index, item] of node.items.entries()) {
        const at = `${path}[${index}]`;
        const range =
          isScalar(item) || isMap(item) || isSeq(item) || isAlias(item) ? item.range : undefined;
        lines[at] = lineAt(range?.[0]);
        open.push({ path: at, node: item });
      }
    }
  }
  return lines;
}

function depthOf(value: unknown): number {
  let level: unknown[] = [value];
  let depth = 0;
  for (; level.length > 0 && depth <= MAX_DEPTH + 1; depth += 1) {
    level = level.flatMap((part) =>
      typeof part === 'object' && part !== null ? Object.values(part) : [],
    );
  }
  return depth;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function text(value: unknown): string {
  const written = value === undefined || value === '' ? 'missing' : JSON.stringify(value);
  return written.length > 80 ? `${written.slice(0, 80)}…` : written;
}
