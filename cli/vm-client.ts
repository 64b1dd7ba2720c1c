/** Questions of `clustermesh vm` to the registry, and its answers parsed. */
import { z } from 'zod';
import { askCluster, type ClusterFlags } from './cluster-access.ts';

/** Milliseconds since 1970 as text; undefined: never. */
const timeSchema = z.coerce
  .number()
  .default(0)
  .transform((at) => (at === 0 ? undefined : new Date(at).toISOString()));
const labelsSchema = z.record(z.string(), z.string()).default({});
const textsSchema = z.array(z.string()).default([]);

const tokenSchema = z
  .object({
    id: z.string(),
    state: z.string().default(''),
    names: z.string().default(''),
    namespace: z.string().default(''),
    labels: labelsSchema,
    address_ranges: textsSchema,
    created_at: timeSchema,
    created_by: z.string().default(''),
    expires_at: timeSchema,
    uses: z.number().default(0),
    uses_left: z.number().default(0),
    revoked_at: timeSchema,
    revoked_by: z.string().default(''),
    used_by: z
      .array(
        z.object({
          machine: z.string().default(''),
          at: timeSchema,
          from: z.string().default(''),
        }),
      )
      .default([]),
  })
  .transform((token) => ({
    id: token.id,
    state: token.state,
    names: token.names,
    namespace: token.namespace,
    labels: token.labels,
    addressRanges: token.address_ranges,
    createdAt: token.created_at,
    createdBy: token.created_by,
    expiresAt: token.expires_at,
    uses: token.uses,
    usesLeft: token.uses_left,
    revokedAt: token.revoked_at,
    revokedBy: token.revoked_by === '' ? undefined : token.revoked_by,
    usedBy: token.used_by,
  }));

const machineSchema = z
  .object({
    name: z.string(),
    namespace: z.string().default(''),
    labels: labelsSchema,
    address_ranges: textsSchema,
    addresses: textsSchema,
    state: z.string().default(''),
    for_ms: z.coerce.number().default(0),
    token_id: z.string().default(''),
    enrolled_at: timeSchema,
    agent_version: z.string().default(''),
    problems: textsSchema,
    failing_checks: z
      .array(z.object({ check: z.string().default(''), reason: z.string().default('') }))
      .default([]),
    endpoints: z
      .array(z.object({ name: z.string(), addresses: textsSchema, labels: labelsSchema }))
      .default([]),
  })
  .transform((machine) => ({
    name: machine.name,
    namespace: machine.namespace,
    labels: machine.labels,
    addressRanges: machine.address_ranges,
    addresses: machine.addresses,
    state: machine.state,
    forMs: machine.for_ms,
    tokenId: machine.token_id,
    enrolledAt: machine.enrolled_at,
    agentVersion: machine.agent_version,
    problems: machine.problems,
    failingChecks: machine.failing_checks,
    endpoints: machine.endpoints,
  }));

/** A token as the registry tells of it: not what lets anyone in. Times are ISO 8601. */
export type TokenAnswer = z.infer<typeof tokenSchema>;

/** A machine as the registry tells of it. */
export type MachineAnswer = z.infer<typeof machineSchema>;

/** Answers, by method. */
export const ANSWERS = {
  CreateToken: z.object({
    token: z.string(),
    report: tokenSchema,
    enrollment_endpoint: z.string(),
  }),
  ListTokens: z.object({ tokens: z.array(tokenSchema).default([]) }),
  RevokeToken: z.object({ token: tokenSchema }),
  ListMachines: z.object({ machines: z.array(machineSchema).default([]) }),
  GetMachine: z.object({ machine: machineSchema }),
  LabelMachine: z.object({ machine: machineSchema }),
  RemoveMachine: z.object({ machine: machineSchema }),
  SetMachineEndpoint: z.object({ machine: machineSchema }),
  RemoveMachineEndpoint: z.object({ machine: machineSchema }),
} as const;

/** Asks once. Throws CliError as `openClusterAccess` and `ClusterAccess.ask` do. */
export async function askRegistry<M extends keyof typeof ANSWERS>(
  method: M,
  request: object,
  { flags, signal }: { readonly flags: ClusterFlags; readonly signal: AbortSignal },
): Promise<z.infer<(typeof ANSWERS)[M]>> {
  const { [method]: answer } = ANSWERS;
  // Of a union of parsers the compiler does not see which one was asked.
  return (await askCluster(flags, { method, request, answer }, { signal })) as z.infer<
    (typeof ANSWERS)[M]
  >;
}
