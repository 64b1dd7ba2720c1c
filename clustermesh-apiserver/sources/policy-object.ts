/** A policy of any kind: what it says is for the agents to read. */
import { z } from 'zod';
import {
  isTooDeep,
  MAX_MANIFEST_DEPTH,
  POLICY_KINDS,
  type PolicyOrigin,
} from '../../mesh/wire/local-policy.ts';
import { checkObject, ObjectError } from './object-error.ts';
import { metadataField, type ObjectName } from './object-fields.ts';

/** A policy, passed on as it was written, or what policies refer to. */
export interface PolicyObject extends ObjectName {
  readonly kind: (typeof POLICY_KINDS)[number];
  readonly generation: number;
  readonly manifest: unknown;
  /** Only of one that stands in a file. */
  readonly origin?: PolicyOrigin;
}

const schema = z.looseObject({ kind: z.enum(POLICY_KINDS), metadata: metadataField });
/** What an API server keeps in an object besides what its author wrote: it changes without the policy, and may be large. */
const KEPT_BY_SERVER = new Set(['managedFields', 'resourceVersion', 'selfLink']);
const LAST_APPLIED = 'kubectl.kubernetes.io/last-applied-configuration';

/** Parses a policy. Throws ObjectError naming the field. */
export function parsePolicyObject(input: unknown): PolicyObject {
  const { kind, metadata: meta } = checkObject(schema, input);
  if (isTooDeep(input)) {
    const message = `the object has more than ${MAX_MANIFEST_DEPTH} levels of objects and lists`;
    throw new ObjectError('bad-object', '', `${message}: no agent would take it`);
  }
  const namespaced = kind === 'NetworkPolicy' || kind === 'CiliumNetworkPolicy';
  const namespace = namespaced ? (meta.namespace ?? 'default') : '';
  return {
    kind,
    namespace,
    name: meta.name,
    generation: meta.generation,
    manifest: asWritten(input),
  };
}

function asWritten(input: unknown): unknown {
  const { status: _, ...object } = recordOf(input);
  const { annotations, ...metadata } = Object.fromEntries(
    Object.entries(recordOf(object.metadata)).filter(([field]) => !KEPT_BY_SERVER.has(field)),
  );
  const { [LAST_APPLIED]: __, ...notes } = recordOf(annotations);
  const hasNotes = Object.keys(notes).length > 0;
  return { ...object, metadata: hasNotes ? { ...metadata, annotations: notes } : metadata };
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}
