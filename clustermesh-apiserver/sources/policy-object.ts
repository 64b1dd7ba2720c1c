/** A policy of any kind: what it says is for the agents to read. */
import { z } from 'zod';
import { POLICY_KINDS } from '../../mesh/wire/local-policy.ts';
import { checkObject } from './object-error.ts';
import { metadataField, type ObjectName } from './object-fields.ts';

/** A policy, passed on as it was written. */
export interface PolicyObject extends ObjectName {
  readonly kind: (typeof POLICY_KINDS)[number];
  readonly generation: number;
  readonly manifest: unknown;
}

const schema = z.looseObject({ kind: z.enum(POLICY_KINDS), metadata: metadataField });

/** Parses a policy. Throws ObjectError naming the field. */
export function parsePolicyObject(input: unknown): PolicyObject {
  const { kind, metadata: meta } = checkObject(schema, input);
  const namespace = kind === 'CiliumClusterwideNetworkPolicy' ? '' : (meta.namespace ?? 'default');
  return { kind, namespace, name: meta.name, generation: meta.generation, manifest: input };
}
