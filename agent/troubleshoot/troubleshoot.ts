/** `GET /v1/troubleshoot` of the agent's socket: the way from this node to peers, control plane and packets. */
import { join } from 'node:path';
import { type Diagnosis, verdictOf } from '../../mesh/diagnosis/diagnosis.ts';
import { diagnosePeer, unknownPeer } from '../../mesh/diagnosis/peer-path.ts';
import type { OwnCluster } from '../../mesh/diagnosis/store-path.ts';
import { listPeerFiles } from '../../mesh/remote/directory.ts';
import { peerSight } from '../../mesh/remote/peer-sight.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { AgentStatus } from '../api/status.ts';
import { TraceError } from '../policy/trace-error.ts';
import { parseParty } from '../policy/trace-party.ts';
import { parsePortQuestion } from '../policy/trace-port.ts';
import type { FollowDataPath, PathQuestion } from './data-path.ts';

const SERVICE_NAME = /^[^/\s]+\/[^/\s]+$/;

/** What the answers are made of. */
export interface TroubleshootSources {
  readonly own: OwnCluster;
  readonly node: string;
  /** Folder of the peers' files; undefined: none are read here. */
  readonly directory: string | undefined;
  readonly status: () => AgentStatus;
  /** What packets meet on their way to a peer. */
  readonly packets: FollowDataPath;
  readonly clock: Clock;
}

/** What is asked. */
export interface TroubleshootRequest {
  /** Empty: all peers. */
  readonly peer: string;
  readonly question: PathQuestion;
}

/** Reads a request: `peer`, `service`, `from`, `to`, `port`. Throws TraceError `bad-question`. */
export function parseTroubleshoot(params: URLSearchParams): TroubleshootRequest {
  const text = (name: string): string | undefined => params.get(name) || undefined;
  const [from, to, port, service] = ['from', 'to', 'port', 'service'].map(text);
  for (const party of [from, to]) if (party !== undefined) parseParty(party);
  if (service !== undefined && !SERVICE_NAME.test(service)) {
    throw new TraceError('bad-question', `service ${service}: expected NAMESPACE/NAME`);
  }
  if (to !== undefined && from === undefined) {
    throw new TraceError('bad-question', 'to whom packets go is asked for, and not from whom');
  }
  if (from !== undefined && to === undefined && service === undefined) {
    throw new TraceError('bad-question', 'from whom packets go is asked for, and not to whom');
  }
  const question = {
    from,
    to,
    service,
    port: port === undefined ? undefined : parsePortQuestion(port),
  };
  return { peer: params.get('peer') ?? '', question };
}

/** Diagnoses one peer, or all. Rejects when `signal` aborts, and when the folder cannot be read. */
export async function troubleshootPeers(
  { peer, question }: TroubleshootRequest,
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
      const mtu = datapath?.tunnelMtu;
      const [found, packets] = await Promise.all([
        diagnosePeer({ peer: name, file, from, own, sight, clock, signal }),
        sources.packets(name, { clusterId, mtu, question, signal }),
      ]);
      const steps = [...found.steps, ...packets.steps];
      const { pair } = packets;
      const verdict = verdictOf(name, steps);
      return { from, peer: name, steps, ...(pair === undefined ? {} : { pair }), verdict };
    }),
  );
}
