/** What `clustermesh peer` and `connect` ask a registry about peers, and its answers parsed. */
import { z } from 'zod';
import { problemOf } from '../mesh/diagnosis/problem.ts';
import { isProblemId } from '../mesh/diagnosis/problems.ts';
import type { ClusterAccess } from './cluster-access.ts';

/** What a preflight finds that is true only now and here: a person may choose not to mind it. The registry decides. */
export const IGNORABLE_FINDINGS = [
  'peer-unreachable',
  'peer-nodes-unreachable',
  'peer-tls',
  'peer-clock',
  'peer-mtu',
  'own-certificate-refused',
] as const;

/** An apiserver looks at a peer over the network meanwhile. */
const TIMEOUT_MS = 45_000;

const timeSchema = z.coerce
  .number()
  .default(0)
  .transform((at) => (at === 0 ? undefined : new Date(at).toISOString()));
const textSchema = z.string().default('');
const findingSchema = z.object({ id: textSchema, severity: textSchema, cause: textSchema });
const changeSchema = z.object({
  outcome: z.enum(['created', 'changed', 'deleted', 'unchanged', 'refused']),
  name: textSchema,
  before: textSchema,
  after: textSchema,
  findings: z.array(findingSchema).default([]),
  revision: z.coerce.number().default(0),
});
const exportSchema = z.object({
  manifest: z.string(),
  notes: z.array(z.string()).default([]),
  node_addresses: z.array(z.string()).default([]),
});
const listSchema = z.object({
  peers: z
    .array(
      z
        .object({
          name: z.string(),
          cluster_id: z.number().default(0),
          endpoints: z.array(z.string()).default([]),
          manifest: textSchema,
          source: textSchema,
          conditions: z
            .array(
              z.object({
                type: z.string(),
                status: z.boolean().default(false),
                reason: textSchema,
                message: textSchema,
                since: timeSchema,
              }),
            )
            .default([]),
          findings: z.array(findingSchema).default([]),
          certificate_not_after: timeSchema,
          revisions: z
            .array(
              z.object({
                revision: z.coerce.number(),
                outcome: textSchema,
                at: timeSchema,
                by: textSchema,
              }),
            )
            .default([]),
        })
        .transform((peer) => ({
          name: peer.name,
          clusterId: peer.cluster_id,
          endpoints: peer.endpoints,
          source: peer.source,
          conditions: peer.conditions,
          findings: peer.findings,
          certificateNotAfter: peer.certificate_not_after,
          revisions: peer.revisions,
          manifest: peer.manifest,
        })),
    )
    .default([]),
});

/** Something that is wrong with a peer. */
export type PeerFindingAnswer = z.infer<typeof findingSchema>;
/** A change of a peer, or why there is none. */
export type PeerChangeAnswer = z.infer<typeof changeSchema>;
/** A peer as the registry tells of it. Times are ISO 8601. */
export type PeerAnswer = z.infer<typeof listSchema>['peers'][number];

/** How a change is to be made. */
export interface ChangeHow {
  readonly dryRun: boolean;
  /** Ids of findings that are not minded. */
  readonly ignore?: readonly string[] | undefined;
  /** Of nodes of the peer, as its export says them. */
  readonly nodeAddresses?: readonly string[] | undefined;
  readonly signal: AbortSignal;
}

/** This cluster as a peer of others, in YAML. */
export function exportPeer(
  access: ClusterAccess,
  signal: AbortSignal,
): Promise<z.infer<typeof exportSchema>> {
  return access.ask('ExportPeer', {}, { answer: exportSchema, signal });
}

/** Applies a MeshPeer. */
export function applyPeer(
  access: ClusterAccess,
  manifest: string,
  { dryRun, ignore = [], nodeAddresses = [], signal }: ChangeHow,
): Promise<PeerChangeAnswer> {
  const request = { manifest, dry_run: dryRun, ignore, node_addresses: nodeAddresses };
  return access.ask('ApplyPeer', request, { answer: changeSchema, signal, timeoutMs: TIMEOUT_MS });
}

/** Deletes a peer, if it is there. */
export function deletePeer(
  access: ClusterAccess,
  name: string,
  { dryRun, signal }: ChangeHow,
): Promise<PeerChangeAnswer> {
  return access.ask('DeletePeer', { name, dry_run: dryRun }, { answer: changeSchema, signal });
}

/** Undoes a change, the latest when `revision` is 0. */
export function rollbackPeer(
  access: ClusterAccess,
  what: { readonly name: string; readonly revision: number },
  { dryRun, ignore = [], signal }: ChangeHow,
): Promise<PeerChangeAnswer> {
  const request = { ...what, dry_run: dryRun, ignore };
  const options = { answer: changeSchema, signal, timeoutMs: TIMEOUT_MS };
  return access.ask('RollbackPeer', request, options);
}

/** All peers. */
export async function listPeers(
  access: ClusterAccess,
  signal: AbortSignal,
): Promise<readonly PeerAnswer[]> {
  return (await access.ask('ListPeers', {}, { answer: listSchema, signal })).peers;
}

/** A finding as lines for people: what, why, what to run next, where to read on. */
export function findingLines(finding: PeerFindingAnswer, peer: string): string[] {
  const { id, severity, cause } = finding;
  const first = `${severity === 'refusal' ? 'refused' : 'warning'}: ${id}: ${cause}`;
  if (!isProblemId(id)) return [first];
  const { nextCommand, docs } = problemOf(id, { subject: `peer ${peer}`, cause, values: { peer } });
  return [first, `  next: ${nextCommand}`, `  read: ${docs}`];
}
