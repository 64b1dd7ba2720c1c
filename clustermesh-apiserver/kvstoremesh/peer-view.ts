/** A peer of the mirror as others see it: Cilium's status, our report, and whether readiness waits for it. Pure. */

import { MIRRORED_KINDS } from '../../mesh/remote/cluster-sink.ts';
import type { PeerStatus } from '../../mesh/remote/peer.ts';
import type { PeerReport } from '../../mesh/wire/peer-report.ts';
import type { MirroredKind } from './cache-key.ts';
import type { PeerMirrorStatus } from './peer-mirror.ts';

/** A peer at its source and in the local etcd. */
export interface MirroredPeer {
  readonly source: PeerStatus;
  /** Undefined before the mirror was made. */
  readonly local: PeerMirrorStatus | undefined;
}

/** Whether all of it is in the local etcd, with its markers, and nothing is wrong with the source. */
export function isMirrored({ source, local }: MirroredPeer): boolean {
  return source.state.kind === 'ready' && isComplete(local);
}

function isComplete(local: PeerMirrorStatus | undefined): boolean {
  return local !== undefined && MIRRORED_KINDS.every((kind) => local.complete.includes(kind));
}

/** What is published of a peer: agents that read the mirror learn of the peer's own health only from it. */
export function reportOf(peer: MirroredPeer): PeerReport {
  const { source, local } = peer;
  const heartbeatAt = source.heartbeat?.seenAt ?? null;
  const clockDifferenceMs = clockDifferenceOf(source);
  const common = { since: source.since, heartbeatAt, clockDifferenceMs };
  const { state } = source;
  switch (state.kind) {
    case 'connecting':
      return { ...common, state: 'connecting', reason: '' };
    case 'syncing':
      return {
        ...common,
        state: 'syncing',
        reason: `outstanding: ${state.outstanding.join(', ')}`,
      };
    case 'ready':
      if (isComplete(local)) return { ...common, state: 'ready', reason: noteOf(source) };
      return { ...common, state: 'syncing', reason: 'not all of it is in the local etcd yet' };
    case 'stale':
    case 'withdrawn':
      return { ...common, state: 'stale', reason: state.reason };
    case 'failed':
      return { ...common, state: 'failed', reason: state.reason };
    default:
      return state satisfies never;
  }
}

function noteOf(source: PeerStatus): string {
  return source.notes.map(({ message }) => message).join('; ');
}

function clockDifferenceOf({ lag }: PeerStatus): number | null {
  return lag?.kind === 'measured' ? Math.round(lag.clock.differenceMs) : null;
}

/** A cluster in the words of Cilium's `GET /cluster` (`api/v1/models.RemoteCluster`), with more of ours. */
export function describePeer(peer: MirroredPeer): Readonly<Record<string, unknown>> {
  const { source, local } = peer;
  const { config, counts } = source;
  const has = (kind: MirroredKind): boolean => local?.complete.includes(kind) ?? false;
  return {
    name: source.name,
    connected: config !== undefined && source.state.kind !== 'failed',
    ready: isMirrored(peer),
    status: describeState(source),
    'num-nodes': counts.nodes ?? 0,
    'num-endpoints': counts.ips ?? 0,
    'num-identities': counts.identities ?? 0,
    'num-shared-services': counts.services ?? 0,
    'num-service-exports': counts.serviceexports ?? 0,
    'num-endpoint-slices': counts.endpointslices ?? 0,
    'num-failures': source.failures,
    'last-failure':
      source.lastError === undefined ? null : new Date(source.lastError.at).toISOString(),
    config: {
      required: true,
      retrieved: config !== undefined,
      'cluster-id': source.clusterId ?? 0,
      kvstoremesh: config?.cached ?? false,
      'sync-canaries': config?.syncedCanaries ?? false,
      'service-exports-enabled': config?.serviceExportsEnabled ?? null,
      'endpoint-slices-export-mode': config?.endpointSlicesExportMode ?? '',
    },
    synced: {
      nodes: has('nodes'),
      endpoints: has('ips'),
      identities: has('identities'),
      services: has('services'),
      'service-exports': has('serviceexports'),
      'endpoint-slices': has('endpointslices'),
    },
    endpoints: source.endpoints,
    state: source.state,
    since: new Date(source.since).toISOString(),
    notes: source.notes,
    refused: source.refused,
    'last-error': source.lastError?.message ?? null,
    local: local ?? null,
  };
}

function describeState({ state }: PeerStatus): string {
  if ('reason' in state) return `${state.kind}: ${state.reason}`;
  return state.kind === 'syncing' ? `syncing: ${state.outstanding.join(', ')}` : state.kind;
}
