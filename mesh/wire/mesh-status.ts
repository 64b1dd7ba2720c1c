/** The whole mesh as one cluster sees it: what `Admin.GetMeshStatus` answers, and `clustermesh status -o json` prints. */
import { z } from 'zod';
import { parseJsonAs, peerSightSchema } from './agent-report.ts';

/** Schema of what is written; readers take the one before, too. */
export const MESH_STATUS_SCHEMA = 1;

const textsSchema = z.array(z.string()).default([]);

const certificateSchema = z.object({
  /** `server`, `authority`, `peer beta`. */
  what: z.string(),
  /** Its end, and from when on it should have been replaced, milliseconds since 1970. */
  expiresAt: z.number(),
  dueAt: z.number(),
});

/** An agent as the registry knows it. */
const agentRowSchema = z.object({
  kind: z.enum(['node', 'machine']),
  name: z.string(),
  /**
   * `connected`, `elsewhere` (at another replica), `gone` (its session has ended), `never` (the cluster has a node of that name
   * and no agent of it was ever seen).
   */
  session: z.string(),
  /** Milliseconds that it has been so. */
  forMs: z.number().default(0),
  /** JSON of the report; absent: it has not said anything. Decoded by whoever looks at it, so that a newer one passes through. */
  report: z.string().optional(),
});

const meshStatusSchema = z.object({
  schema: z.number().int().min(1),
  cluster: z.object({ name: z.string(), id: z.number() }),
  version: z.string().default(''),
  /** The replica that answers. */
  replica: z.string().default(''),
  /** Its clock, milliseconds since 1970. */
  at: z.number(),
  /** `cilium`, `any-cni` or `manifests`. */
  mode: z.string().default(''),
  apiserver: z.object({
    ready: z.boolean(),
    /** Why it is not, a sentence each. */
    missing: textsSchema,
    notes: textsSchema,
    leads: z.boolean().optional(),
    /** Kinds of objects that cannot be read, with the reason. */
    kinds: z
      .array(
        z.object({
          kind: z.string(),
          /** As `kubectl` calls it: `serviceexports.multicluster.x-k8s.io`; empty: not told. */
          resource: z.string().default(''),
          /** The API server does not know the kind. */
          missing: z.boolean(),
          /** It does not believe our credentials. */
          unauthorized: z.boolean().default(false),
          reason: z.string(),
        }),
      )
      .default([]),
  }),
  etcd: z
    .object({
      reachable: z.boolean(),
      dbBytes: z.number().optional(),
      quotaBytes: z.number().optional(),
      /** Alarms that are raised: `NOSPACE`, `CORRUPT`. */
      alarms: textsSchema,
      error: z.string().default(''),
    })
    .optional(),
  certificates: z.array(certificateSchema).default([]),
  /** Whether the peers are mirrored here; `peers` is empty otherwise, and agents say what they see. */
  mirrors: z.boolean().default(false),
  peers: z.array(peerSightSchema).default([]),
  /** Problems of the peers as objects (MeshPeer), by name: what the preflight says at every look. */
  findings: z.array(z.object({ peer: z.string(), id: z.string(), cause: z.string() })).default([]),
  agents: z.array(agentRowSchema).default([]),
});

/** The mesh. */
export type MeshStatus = z.infer<typeof meshStatusSchema>;
/** An agent in it. */
export type AgentRow = z.infer<typeof agentRowSchema>;
/** A certificate in it. */
export type StatusCertificate = z.infer<typeof certificateSchema>;

/** Writes it. */
export function encodeMeshStatus(status: MeshStatus): string {
  return JSON.stringify(status);
}

/** Reads it. Throws WireError `bad-value`. */
export function decodeMeshStatus(json: string): MeshStatus {
  return parseJsonAs(meshStatusSchema, { json, key: 'the status of the mesh' });
}
