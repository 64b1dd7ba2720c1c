/** What a stranger sends who wants to enrol. Pure. */
import { z } from 'zod';

const SCHEMA = 1;
const MAX_ADDRESSES = 16;

/** An EnrollRequest of a form that can be looked at; nothing of it is believed yet. */
export interface EnrollmentRequest {
  readonly tokenId: string;
  readonly tokenSecret: Uint8Array;
  readonly machineName: string;
  readonly addresses: readonly string[];
  readonly publicKey: Uint8Array;
  readonly proof: Uint8Array;
  readonly agentVersion: string;
}

const requestSchema = z.object({
  schema: z.number().default(0),
  token_id: z.string().max(64).default(''),
  token_secret: z.instanceof(Uint8Array).default(new Uint8Array()),
  machine_name: z.string().max(64).default(''),
  addresses: z.array(z.string().max(64)).max(MAX_ADDRESSES).default([]),
  public_key: z.instanceof(Uint8Array).default(new Uint8Array()),
  proof: z.instanceof(Uint8Array).default(new Uint8Array()),
  agent_version: z.string().max(128).default(''),
});

/** What came of reading it; `reason` is for people. */
export type RequestReading =
  | { readonly kind: 'request'; readonly request: EnrollmentRequest }
  | { readonly kind: 'malformed'; readonly reason: string };

/** Reads a message as it came. */
export function readEnrollmentRequest(message: unknown): RequestReading {
  const result = requestSchema.safeParse(message);
  if (!result.success) {
    const [field] = result.error.issues[0]?.path ?? [];
    return malformed(
      field === undefined
        ? 'it is no EnrollRequest of at most 4096 bytes'
        : `${String(field)} is not as expected`,
    );
  }
  const { schema, addresses, proof } = result.data;
  if (schema !== SCHEMA) {
    return malformed(
      `schema ${schema} is not known, expected ${SCHEMA}: bring the machine's program and the cluster's to one version`,
    );
  }
  if (addresses.length === 0) return malformed('it names no address of the machine');
  const request: EnrollmentRequest = {
    tokenId: result.data.token_id,
    tokenSecret: result.data.token_secret,
    machineName: result.data.machine_name,
    addresses,
    publicKey: result.data.public_key,
    proof,
    agentVersion: result.data.agent_version,
  };
  return { kind: 'request', request };
}

function malformed(reason: string): RequestReading {
  return { kind: 'malformed', reason: `cannot read the request: ${reason}` };
}
