/** `GET /v1/troubleshoot` of the agent's socket: the way from this node to peers, control plane and packets. */
import { join } from 'node:path';
import { type Diagnosis, type DiagnosisStep, verdictOf } from '../../mesh/diagnosis/diagnosis.ts';
import { diagnosePeer, unknownPeer } from '../../mesh/diagnosis/peer-path.ts';
import type { OwnCluster } from '../../mesh/diagnosis/store-path.ts';
import { listPeerFiles } from '../../mesh/remote/directory.ts';
import { peerSight } from '../../mesh/remote/peer-sight.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { AgentStatus } from '../api/status.ts';

/** What the answers are made of. */
export interface TroubleshootSources {
  readonly own: OwnCluster;
  readonly node: string;
  /** Folder of the peers' files; undefined: none are read here. */
  readonly directory: string | undefined;
  readonly status: () => AgentStatus;
  /** What packets meet on their way to a peer. */
  readonly packets: (
    peer: string,
    options: {
      readonly clusterId: number | undefined;
      readonly mtu: number | undefined;
      readonly signal: AbortSignal;
    },
  ) => Promise<readonly DiagnosisStep[]>;
  readonly clock: Clock;
}

/** Diagnoses one peer, or with an empty name all. Rejects when `signal` aborts, and when the folder cannot be read. */
export async function troubleshootPeers(
  peer: string,
  sources: TroubleshootSources,
  signal: AbortSignal,
): Promise<Diagnosis[]> {
  const { own, node, directory, clock } = sources;
  const from = `agent on ${node}`;
  const files = directory === undefined ? [] : await listPeerFiles(directory);
  const known = files.filter((name) => name !== own.name);
  const wanted = peer === '' ? known : known.filter((name) => name === peer);
  if (peer !== '' && wanted.length === 0) return [unknownPeer(from, { peer, known })];
  const { clusters, datapath } = sources.status();
  return Promise.all(
    wanted.map(async (name) => {
      const status = clusters.find((cluster) => cluster.name === name);
      const sight = status === undefined ? undefined : peerSight(status, status.addressesRefused);
      const file = join(directory ?? '', name);
      const clusterId = status?.clusterId;
      const [found, packets] = await Promise.all([
        diagnosePeer({ peer: name, file, from, own, sight, clock, signal }),
        sources.packets(name, { clusterId, mtu: datapath?.tunnelMtu, signal }),
      ]);
      const steps = [...found.steps, ...packets];
      return { from, peer: name, steps, verdict: verdictOf(name, steps) };
    }),
  );
}
