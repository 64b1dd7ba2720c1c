/** What a stranger sends who wants to enrol as a node. Pure. */
import { z } from 'zod';

const SCHEMA = 1;
/** Tokens of service accounts have 1 to 2 KiB. */
const MAX_TOKEN_LENGTH = 3072;
/** JSON Web Signature in its compact form (RFC 7515, 7.1), which tokens of service accounts are. */
const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]+$/;

/** An EnrollNodeRequest of a form that can be looked at; nothing of it is believed yet. */
export interface NodeEnrollmentRequest {
  readonly token: string;
  readonly publicKey: Uint8Array;
  readonly proof: Uint8Array;
  readonly agentVersion: string;
}

const requestSchema = z.object({
  schema: z.number().default(0),
  service_account_token: z.string().max(MAX_TOKEN_LENGTH).default(''),
  public_key: z.instanceof(Uint8Array).default(new Uint8Array()),
  proof: z.instanceof(Uint8Array).default(new Uint8Array()),
  agent_version: z.string().max(128).default(''),
});

/** What came of reading it; `reason` is for people. */
export type NodeRequestReading =
  | { readonly kind: 'request'; readonly request: NodeEnrollmentRequest }
  | { readonly kind: 'malformed'; readonly reason: string };

/** Reads a message as it came. */
export function readNodeEnrollmentRequest(message: unknown): NodeRequestReading {
  const result = requestSchema.safeParse(message);
  if (!result.success) {
    const [field] = result.error.issues[0]?.path ?? [];
    return malformed(
      field === undefined
        ? 'it is no EnrollNodeRequest of at most 4096 bytes'
        : `${String(field)} is not as expected`,
    );
  }
  const { schema, service_account_token: token, proof } = result.data;
  if (schema !== SCHEMA) {
    return malformed(
      `schema ${schema} is not known, expected ${SCHEMA}: bring agent and apiserver to one version`,
    );
  }
  if (!TOKEN.test(token)) {
    return malformed('service_account_token is no token of a service account: see the file');
  }
  const { public_key: publicKey, agent_version: agentVersion } = result.data;
  return { kind: 'request', request: { token, publicKey, proof, agentVersion } };
}

function malformed(reason: string): NodeRequestReading {
  return { kind: 'malformed', reason: `cannot read the request: ${reason}` };
}
