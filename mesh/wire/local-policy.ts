/** A policy of the own cluster on its way to the own agents, as its author wrote it: agents compile it. */
import {
  encodeGoJson,
  type FieldPath,
  failField,
  parseJsonObject,
  readObject,
  readRequiredString,
  readString,
  readUint,
  setOwn,
} from './json.ts';
import { readSchema } from './schema.ts';

/** Kinds of Kubernetes objects that are policies, or that policies refer to and agents need with them. */
export const POLICY_KINDS = [
  'NetworkPolicy',
  'CiliumNetworkPolicy',
  'CiliumClusterwideNetworkPolicy',
  'CiliumCIDRGroup',
] as const;
/** One of `POLICY_KINDS`. */
export type PolicyKind = (typeof POLICY_KINDS)[number];

/** Where a policy stands in a watched directory. */
export interface PolicyOrigin {
  /** Name of the file in the directory. */
  readonly file: string;
  /**
   * Line, counted from 1, of parts of the object by their path: `spec`, `specs[1]`, `spec.ingress[0]`; of the whole object
   * under the empty path.
   */
  readonly lines: Readonly<Record<string, number>>;
}

/** A policy object with what is needed to tell it from others. */
export interface LocalPolicy {
  readonly kind: PolicyKind;
  /** Empty for a clusterwide kind. */
  readonly namespace: string;
  readonly name: string;
  /** The object's `metadata.generation`, 0 where it has none. */
  readonly generation: number;
  /** The object itself, checked by whoever compiles it. */
  readonly manifest: unknown;
  /** Absent for what comes from Kubernetes, or from a publisher that does not say it. */
  readonly origin?: PolicyOrigin;
}

const SCHEMA = 1;
/** Levels of a manifest. Kubernetes' own policies nest to about 12; who recurses must not meet what exhausts its stack. */
export const MAX_MANIFEST_DEPTH = 100;

/** Encodes a policy for the own cluster's agents. */
export function encodeLocalPolicy(policy: LocalPolicy): string {
  return encodeGoJson({
    schema: SCHEMA,
    kind: policy.kind,
    namespace: policy.namespace,
    name: policy.name,
    generation: policy.generation,
    manifest: policy.manifest,
    origin: policy.origin && { file: policy.origin.file, lines: policy.origin.lines },
  });
}

/** Decodes one. Throws WireError naming key and field, and for a schema that is not known. */
export function decodeLocalPolicy(value: Buffer | string, key: string): LocalPolicy {
  const object = parseJsonObject(value, key);
  readSchema(key, object, SCHEMA);
  const at = (field: string): FieldPath => ({ key, field });
  const kind = POLICY_KINDS.find((candidate) => candidate === object.kind);
  if (kind === undefined) failField(at('kind'), object.kind, POLICY_KINDS.join(', '));
  return {
    kind,
    namespace: readString(at('namespace'), object.namespace),
    name: readRequiredString(at('name'), object.name, 'a name'),
    generation: readUint(at('generation'), object.generation, Number.MAX_SAFE_INTEGER),
    manifest: readManifest(at('manifest'), object.manifest),
    ...readOrigin({ key, field: 'origin' }, object.origin),
  };
}

function readOrigin(at: FieldPath, found: unknown): { origin?: PolicyOrigin } {
  const object = readObject(at, found);
  if (object === undefined) return {};
  const { key, field } = at;
  const linesAt = { key, field: `${field}.lines` };
  const lines: Record<string, number> = {};
  for (const [path, line] of Object.entries(readObject(linesAt, object.lines) ?? {})) {
    setOwn(lines, path, readUint(linesAt, line, Number.MAX_SAFE_INTEGER));
  }
  const file = readRequiredString({ key, field: `${field}.file` }, object.file, 'a file');
  return { origin: { file, lines } };
}

function readManifest(at: FieldPath, found: unknown): unknown {
  const manifest = readObject(at, found) ?? failField(at, found, 'the object');
  if (isTooDeep(manifest)) {
    failField(at, found, `at most ${MAX_MANIFEST_DEPTH} levels of objects and lists`);
  }
  return manifest;
}

/** Whether a manifest has more than MAX_MANIFEST_DEPTH levels of objects and lists: no reader takes it. */
export function isTooDeep(manifest: unknown): boolean {
  let level: unknown[] = [manifest];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > MAX_MANIFEST_DEPTH) return true;
    level = level.flatMap((value) =>
      typeof value === 'object' && value !== null ? Object.values(value) : [],
    );
  }
  return false;
}
