/** A mirror's rig with one peer, beta, and what the tests of its faults look at. */
import type { Test } from 'tap';
import type { KvStore } from '../../../mesh/kvstore/kvstore.ts';
import {
  type PublishedCluster,
  publishCluster,
} from '../../../mesh/remote/testing/published-cluster.ts';
import { eventually } from '../../testing/publishing-rig.ts';
import {
  type EtcdSide,
  type MirrorRig,
  mirrored,
  openMirrorRig,
  type RunningMirror,
} from './mirror-rig.ts';

/** Addresses that beta has at first, from 10.2.0.0 on. */
export const ADDRESSES = 300;

/** The rig, with beta filled and configured. */
export interface BetaRig {
  readonly rig: MirrorRig;
  readonly side: EtcdSide;
  readonly beta: PublishedCluster<KvStore>;
  /** Publishes everything again. */
  fill(): Promise<void>;
}

/** Makes one. */
export async function openBetaRig(t: Test): Promise<BetaRig> {
  const rig = await openMirrorRig(t);
  const side = await rig.openSource();
  const beta = publishCluster('beta', 2, side.store);
  const fill = async (): Promise<void> => {
    await beta.config();
    await beta.node('n1', '192.0.2.1');
    await beta.identity(300, { app: 'web' });
    const addresses = Array.from({ length: ADDRESSES }, (_, index) =>
      beta.ip(`10.2.${index >> 8}.${index & 255}`, { host: '192.0.2.1', local: 300 }),
    );
    await Promise.all(addresses);
    await beta.service('web', { '10.2.0.1': 80 });
    await beta.marked();
  };
  await fill();
  await rig.configure('beta', side.server.endpoint);
  return { rig, side, beta, fill };
}

/** Waits until a mirror leads and has everything. */
export function untilReady({ mesh }: RunningMirror): Promise<void> {
  return eventually(
    'the mirror to be ready',
    () => mesh.leader === 'leading' && mesh.missing.length === 0,
  );
}

/** Mirrored keys of beta, without the configuration and markers. */
export async function dataKeys(rig: MirrorRig): Promise<string[]> {
  const found = await mirrored(rig.local.store, 'beta');
  return [...found.keys()].filter((key) => key.startsWith('cilium/cache/')).sort();
}

/** Collects deletions of mirrored addresses of beta from now on. */
export function watchDeletes(t: Test, rig: MirrorRig): readonly string[] {
  const deleted: string[] = [];
  const ending = new AbortController();
  const watching = (async () => {
    const target = { prefix: 'cilium/cache/ip/v1/beta/' };
    for await (const event of rig.local.store.watch(target, { signal: ending.signal })) {
      if (event.kind === 'delete') deleted.push(event.key);
    }
  })();
  t.teardown(async () => {
    ending.abort();
    await watching;
  });
  return deleted;
}
