/** What keeps this cluster from its peers, found out when an administrator asks: by this apiserver itself where it can reach them, else by what others say who read them. */
import { join } from 'node:path';
import { z } from 'zod';
import { type Diagnosis, encodeDiagnoses, verdictOf } from '../mesh/diagnosis/diagnosis.ts';
import type { MeshPeer, MeshView, PeerReader } from '../mesh/diagnosis/mesh-view.ts';
import { diagnoseOwn } from '../mesh/diagnosis/own-path.ts';
import { diagnosePeer, sightStep, unknownPeer } from '../mesh/diagnosis/peer-path.ts';
import { createStepList } from '../mesh/diagnosis/step-list.ts';
import type { OwnCluster } from '../mesh/diagnosis/store-path.ts';
import { listPeerFiles } from '../mesh/remote/directory.ts';
import { peerSight } from '../mesh/remote/peer-sight.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Parts } from './apiserver-parts.ts';
import type { AdminMethod } from './registry/admin.ts';

/** Readers of one peer that are told of, the worst first. */
const MOST_READERS = 5;

const requestSchema = z.object({ peer: z.string().max(128).default('') });

/** Makes the method `Troubleshoot` of the service Admin. */
export function troubleshootMethod(options: {
  readonly own: OwnCluster;
  readonly parts: Pick<Parts, 'mirror'>;
  /** Folder of the peers' files; undefined: none are read here. */
  readonly directory: string | undefined;
  /** The mesh as mirrors and agents report it. */
  readonly mesh: (signal: AbortSignal) => Promise<MeshView>;
  readonly clock: Clock;
}): AdminMethod {
  const { own, parts, directory, mesh, clock } = options;
  const from = `apiserver of ${own.name}`;
  return async (request, { signal }) => {
    const { peer } = requestSchema.parse(request);
    const files = directory === undefined ? [] : await listPeerFiles(directory);
    const sources = parts.mirror?.peers.map(({ source }) => source) ?? [];
    const lookAtOwn = async (): Promise<Diagnosis> => diagnoseOwn(from, await mesh(signal), clock);
    if (peer === own.name) return { json: encodeDiagnoses([await lookAtOwn()]) };
    // Who mirrors has seen more than anybody else can tell.
    const told = parts.mirror === undefined ? (await mesh(signal)).peers : [];
    const names = new Set([...files, ...told.map(({ name }) => name)]);
    const known = [...names].filter((name) => name !== own.name).sort();
    const wanted = peer === '' ? known : known.filter((name) => name === peer);
    if (peer !== '' && wanted.length === 0) {
      return { json: encodeDiagnoses([unknownPeer(from, { peer, known })]) };
    }
    const found = await Promise.all([
      ...(peer === '' ? [lookAtOwn()] : []),
      ...wanted.map((name) => {
        const source = sources.find((candidate) => candidate.name === name);
        const others = told.find((candidate) => candidate.name === name);
        if (directory === undefined || !files.some((file) => file === name)) {
          return retell(from, { name, others, clock });
        }
        return diagnosePeer({
          peer: name,
          file: join(directory, name),
          from,
          own,
          sight: source === undefined ? others?.sight : peerSight(source),
          clock,
          signal,
        });
      }),
    ]);
    return { json: encodeDiagnoses(found) };
  };
}

/** What others say of a peer that no file here leads to. */
async function retell(
  from: string,
  options: { readonly name: string; readonly others: MeshPeer | undefined; readonly clock: Clock },
): Promise<Diagnosis> {
  const { name, others, clock } = options;
  const list = createStepList(clock);
  await list.next('config', () => ({
    seen: [
      `no file here leads to it (--clustermesh-config): those who read it say how it is; \`clustermesh troubleshoot ${name} --socket-path\` on one of their nodes says why`,
    ],
    isSkipped: true,
  }));
  const isFine = ({ sight }: PeerReader): boolean => sight.state === 'ready';
  const readers = others?.readers ?? [];
  const worst = [...readers.filter((one) => !isFine(one)), ...readers.filter(isFine)];
  for (const { from: reader, sight } of worst.slice(0, MOST_READERS)) {
    await list.always('reader', () => {
      const { seen, problem } = sightStep(name, sight, clock.now());
      return { seen: seen.map((line) => `${reader}: ${line}`), problem };
    });
  }
  return { from, peer: name, steps: [...list.steps], verdict: verdictOf(name, list.steps) };
}
