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
} from './json.ts';
import { readSchema } from './schema.ts';

/** Kinds of Kubernetes objects that are policies. */
export const POLICY_KINDS = [
  'NetworkPolicy',
  'CiliumNetworkPolicy',
  'CiliumClusterwideNetworkPolicy',
] as const;
/** One of `POLICY_KINDS`. */
export type PolicyKind = (typeof POLICY_KINDS)[number];

/** A policy object with what is needed to tell it from others. */
export interface LocalPolicy {
  readonly kind: PolicyKind;
  /** Empty for a clusterwide policy. */
  readonly namespace: string;
  readonly name: string;
  /** The object's `metadata.generation`, 0 where it has none. */
  readonly generation: number;
  /** The object itself, checked by whoever compiles it. */
  readonly manifest: unknown;
}

const SCHEMA = 1;
/** Kubernetes' own policies nest to about 12; a compiler that recurses must not meet what exhausts its stack. */
const MAX_MANIFEST_DEPTH = 100;

/** Encodes a policy for the own cluster's agents. */
export function encodeLocalPolicy(policy: LocalPolicy): string {
  return encodeGoJson({
    schema: SCHEMA,
    kind: policy.kind,
    namespace: policy.namespace,
    name: policy.name,
    generation: policy.generation,
    manifest: policy.manifest,
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
  };
}

function readManifest(at: FieldPath, found: unknown): unknown {
  const manifest = readObject(at, found) ?? failField(at, found, 'the object');
  let level: unknown[] = [manifest];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > MAX_MANIFEST_DEPTH) {
      failField(at, found, `at most ${MAX_MANIFEST_DEPTH} levels of objects and lists`);
    }
    level = level.flatMap((value) =>
      typeof value === 'object' && value !== null ? Object.values(value) : [],
    );
  }
  return manifest;
}
