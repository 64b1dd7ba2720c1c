/** What keeps this apiserver from its peers, found out when an administrator asks. */
import { join } from 'node:path';
import { z } from 'zod';
import { encodeDiagnoses } from '../mesh/diagnosis/diagnosis.ts';
import { diagnosePeer, unknownPeer } from '../mesh/diagnosis/peer-path.ts';
import type { OwnCluster } from '../mesh/diagnosis/store-path.ts';
import { listPeerFiles } from '../mesh/remote/directory.ts';
import { peerSight } from '../mesh/remote/peer-sight.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Parts } from './apiserver-parts.ts';
import { AdminError, type AdminMethod } from './registry/admin.ts';

const requestSchema = z.object({ peer: z.string().max(128).default('') });

/** Makes the method `Troubleshoot` of the service Admin. */
export function troubleshootMethod(options: {
  readonly own: OwnCluster;
  readonly parts: Pick<Parts, 'mirror'>;
  /** Folder of the peers' files; undefined: none are read here. */
  readonly directory: string | undefined;
  readonly clock: Clock;
}): AdminMethod {
  const { own, parts, directory, clock } = options;
  const from = `apiserver of ${own.name}`;
  return async (request, { signal }) => {
    const { peer } = requestSchema.parse(request);
    if (directory === undefined) {
      throw new AdminError(
        'not-offered',
        'this apiserver reads no peers itself (it runs without --kvstoremesh): ask an agent, by `clustermesh troubleshoot --socket-path` on a node',
      );
    }
    const known = (await listPeerFiles(directory)).filter((name) => name !== own.name);
    const wanted = peer === '' ? known : known.filter((name) => name === peer);
    if (peer !== '' && wanted.length === 0) {
      return { json: encodeDiagnoses([unknownPeer(from, { peer, known })]) };
    }
    const sources = parts.mirror?.peers.map(({ source }) => source) ?? [];
    const found = await Promise.all(
      wanted.map((name) => {
        const source = sources.find((candidate) => candidate.name === name);
        return diagnosePeer({
          peer: name,
          file: join(directory, name),
          from,
          own,
          sight: source === undefined ? undefined : peerSight(source),
          clock,
          signal,
        });
      }),
    );
    return { json: encodeDiagnoses(found) };
  };
}
