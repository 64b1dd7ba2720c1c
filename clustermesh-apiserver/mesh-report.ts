/** What an apiserver answers when it is asked for the whole mesh: itself, the peers it mirrors, and what agents report to any replica. */
import { readFile } from 'node:fs/promises';
import { KvError, type KvStore } from '../mesh/kvstore/kvstore.ts';
import { peerSight } from '../mesh/remote/peer-sight.ts';
import { certificateDue, certificateExpiry } from '../mesh/runtime/certificate-expiry.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { PeerSight } from '../mesh/wire/agent-report.ts';
import type { ClusterId, ClusterName } from '../mesh/wire/ids.ts';
import { MESH_PEER_PREFIX, nodesPrefix } from '../mesh/wire/keys.ts';
import {
  type AgentRow,
  MESH_STATUS_SCHEMA,
  type MeshStatus,
  type StatusCertificate,
} from '../mesh/wire/mesh-status.ts';
import { decodePeerReport } from '../mesh/wire/peer-report.ts';
import { WireError } from '../mesh/wire/wire-error.ts';
import { missingParts, type Parts } from './apiserver-parts.ts';
import { ALARM_METHOD, decodeAlarms, encodeAlarmQuery } from './etcd/maintenance-messages.ts';
import type { TrustFiles } from './gate/trust.ts';
import type { Upstream } from './gate/upstream.ts';
import { RESOURCES, resourceName } from './kubernetes/resource.ts';
import { machinePolicyName } from './registry/machine-session.ts';
import { resourceOfKind } from './sources/kubernetes.ts';

/** What etcd may take for an answer: whoever asks is told of a slow one as well. */
const ETCD_PATIENCE_MS = 3_000;
/** An authority has to be replaced before what it signs would outlive it. */
const AUTHORITY_LATE_MS = 14 * 24 * 3_600_000;
/** Sentences of one kind that are told. */
const MOST_NOTES = 50;

/** What a report is made of. */
export interface MeshReportSources {
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly version: string;
  readonly replica: string;
  readonly parts: Parts;
  readonly store: KvStore;
  /** The same etcd, for what a store does not ask. */
  readonly upstream: Pick<Upstream, 'call'>;
  readonly files: Pick<TrustFiles, 'certFile' | 'ownCaFile'>;
  readonly clock: Clock;
}

/** Makes the report. Rejects only when `signal` aborts: what cannot be found out is part of it. */
export async function reportMesh(
  sources: MeshReportSources,
  signal: AbortSignal,
): Promise<MeshStatus> {
  const { cluster, parts, store, clock } = sources;
  const patience = AbortSignal.any([signal, AbortSignal.timeout(ETCD_PATIENCE_MS)]);
  const etcd = await lookAtEtcd(sources, patience);
  const mirrored = await mirroredPeers(parts, store, patience);
  const nodes = await knownNodes(sources, patience);
  signal.throwIfAborted();
  const missing = missingParts(parts);
  const publisher = parts.published?.publisher.status;
  return {
    schema: MESH_STATUS_SCHEMA,
    cluster,
    version: sources.version,
    replica: sources.replica,
    at: clock.now(),
    mode: parts.published?.kubernetes === undefined ? 'manifests' : parts.published.mode,
    apiserver: {
      ready: missing.length === 0,
      missing,
      notes: notesOf(parts),
      ...(publisher === undefined ? {} : { leads: publisher.role.kind === 'leading' }),
      kinds: kindRows(parts),
    },
    etcd,
    certificates: await certificatesOf(sources),
    mirrors: parts.mirror !== undefined || mirrored.length > 0,
    peers: mirrored,
    findings: (parts.peering?.views ?? []).flatMap(({ name, findings }) =>
      findings.map(({ id, cause }) => ({ peer: name, id, cause })),
    ),
    agents: agentRows(parts, nodes),
  };
}

/** Kinds of objects that cannot be read. */
function kindRows({ kubernetes, peering }: Parts): MeshStatus['apiserver']['kinds'] {
  const progress = kubernetes?.();
  const published = progress?.kind === 'reading' ? progress.kinds : [];
  const rows = published.map((report) => ({ ...report, resource: resourceOfKind(report.kind) }));
  const peers = peering?.reading();
  const ofPeers = { kind: 'MeshPeer', resource: resourceName(RESOURCES.meshPeers) };
  return [...rows, ...(peers === undefined ? [] : [{ ...peers, ...ofPeers }])]
    .filter(({ reason }) => reason !== '')
    .map(({ kind, resource, state, reason }) => ({
      kind,
      resource,
      missing: state === 'absent',
      unauthorized: state === 'unauthorized',
      reason,
    }));
}

function notesOf({ published, controllers }: Parts): string[] {
  const status = published?.publisher.status;
  const notes = [
    ...(published?.problems ?? []).map(({ where, message }) => `${where}: ${message}`),
    ...(status?.lastError === undefined
      ? []
      : [`the latest write to etcd failed: ${status.lastError}`]),
    ...(status === undefined || status.endpointsWithoutIdentity === 0
      ? []
      : [
          `${status.endpointsWithoutIdentity} pods are not published: the cluster has no number left for their labels`,
        ]),
    ...(controllers?.status.problems ?? []),
    ...(controllers?.status.parts.flatMap(({ name, problems }) =>
      problems.map((problem) => `${name}: ${problem}`),
    ) ?? []),
  ];
  return notes.slice(0, MOST_NOTES);
}

async function lookAtEtcd(
  { parts, store, upstream }: MeshReportSources,
  signal: AbortSignal,
): Promise<MeshStatus['etcd']> {
  const error = await store.count(MESH_PEER_PREFIX, { signal }).then(
    () => '',
    (cause: unknown) => messageOf(cause),
  );
  const upkeep = parts.etcd?.maintenance;
  const isFull = upkeep?.isFull === true || (error === '' && (await hasNoSpace(upstream)));
  const database = upkeep?.database;
  return {
    reachable: error === '',
    error,
    alarms: isFull ? ['NOSPACE'] : [],
    ...(upkeep === undefined ? {} : { quotaBytes: upkeep.quotaBytes }),
    ...(database === undefined ? {} : { dbBytes: database.sizeBytes }),
  };
}

/** Whether etcd says that it has no room left; one that does not tell us (it needs a role of root) may have. */
async function hasNoSpace(upstream: Pick<Upstream, 'call'>): Promise<boolean> {
  try {
    const deadline = new Date(Date.now() + ETCD_PATIENCE_MS);
    const answer = await upstream.call(ALARM_METHOD, encodeAlarmQuery(), { deadline });
    return decodeAlarms(answer).some(({ isNoSpace }) => isNoSpace);
  } catch {
    return false;
  }
}

/** Peers as the mirror of this process sees them, else as the one that leads has published. */
async function mirroredPeers(
  { mirror }: Parts,
  store: KvStore,
  signal: AbortSignal,
): Promise<PeerSight[]> {
  if (mirror !== undefined && mirror.leader === 'leading') {
    return mirror.peers.map(({ source }) => peerSight(source));
  }
  try {
    const { pairs } = await store.list(MESH_PEER_PREFIX, { signal });
    return pairs.flatMap(({ key, value }) => {
      const sight = publishedSight(key, value);
      return sight === undefined ? [] : [sight];
    });
  } catch (error) {
    // That etcd does not answer is said elsewhere.
    if (error instanceof KvError || signal.aborted) return [];
    throw error;
  }
}

function publishedSight(key: string, value: Buffer): PeerSight | undefined {
  const name = key.slice(MESH_PEER_PREFIX.length);
  const common = { name, own: false, notes: [], counts: {}, heldBack: {}, refused: 0 };
  try {
    const { state, since, reason } = decodePeerReport(value, key);
    return { ...common, state, since, reason };
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return { ...common, state: 'failed', since: 0, reason: error.message };
  }
}

/** Names of the cluster's nodes, with and without an agent. */
async function knownNodes(
  { cluster, parts, store }: MeshReportSources,
  signal: AbortSignal,
): Promise<readonly string[]> {
  // Cilium's own agents do not report here.
  if (parts.published?.mode === 'cilium') return [];
  const prefix = nodesPrefix(cluster.name);
  try {
    const { pairs } = await store.list(prefix, { signal });
    return pairs.map(({ key }) => key.slice(prefix.length));
  } catch (error) {
    if (error instanceof KvError || signal.aborted) return [];
    throw error;
  }
}

function agentRows({ book, machines, agents }: Parts, nodes: readonly string[]): AgentRow[] {
  const reports = agents?.reports ?? new Map<string, string>();
  const reportOf = (subject: string): Pick<AgentRow, 'report'> => {
    const report = reports.get(subject);
    return report === undefined ? {} : { report };
  };
  const sessions = new Map((book?.report ?? []).map((report) => [report.node, report]));
  const names = [...new Set([...sessions.keys(), ...nodes])].sort();
  return [
    ...names.map((name): AgentRow => {
      const session = sessions.get(name);
      return {
        kind: 'node',
        name,
        session: session?.state ?? 'never',
        forMs: session?.forMs ?? 0,
        ...reportOf(name),
      };
    }),
    ...(machines?.report ?? [])
      .filter(({ state }) => state !== 'removed')
      .map(
        ({ record, state, forMs }): AgentRow => ({
          kind: 'machine',
          name: record.name,
          session: state === 'enrolled' ? 'never' : state,
          forMs: Math.round(forMs),
          ...reportOf(machinePolicyName(record.name)),
        }),
      ),
  ];
}

async function certificatesOf({ files, parts }: MeshReportSources): Promise<StatusCertificate[]> {
  const issuing = parts.enrollment?.status?.authorityNotAfter;
  return [
    ...(await certificateOf('server of gate and registry', files.certFile)),
    ...(await certificateOf('authority of the cluster', files.ownCaFile)),
    ...(issuing === undefined
      ? []
      : [
          { what: 'authority of machines', expiresAt: issuing, dueAt: issuing - AUTHORITY_LATE_MS },
        ]),
  ];
}

async function certificateOf(what: string, file: string): Promise<StatusCertificate[]> {
  try {
    const pem = await readFile(file);
    const [expiresAt, dueAt] = [certificateExpiry(pem), certificateDue(pem)];
    return expiresAt === undefined || dueAt === undefined ? [] : [{ what, expiresAt, dueAt }];
  } catch {
    // Whoever uses the file says so; of its end nothing is known.
    return [];
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
