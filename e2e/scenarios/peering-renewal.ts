/** The certificate by which a cluster is read is replaced while it is read: nothing is taken away, and changes go on coming. */
import type { Test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { nodeLeaf } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type PeeringCluster, runPeering, untilPeer } from './peering-site.ts';

/** Somebody who looks at what `alpha` has read of beta, from now on. */
export interface RenewalWatch extends AsyncDisposable {
  /** Waits for another certificate than at the beginning, and checks that nothing was interrupted. */
  verify(t: Test): Promise<void>;
}

const NODE_KEY = 'cilium/cache/nodes/v1/beta/beta-1';
const MOVED = '192.168.2.77';

/** Begins to look. The certificates that beta gives have to live for less than a minute. */
export async function openRenewalWatch(lab: {
  readonly alpha: PeeringCluster;
  readonly beta: PeeringCluster;
}): Promise<RenewalWatch> {
  const { alpha, beta } = lab;
  const pair = await issueCertificate(alpha.ca, nodeLeaf('reader'));
  const store = await openEtcd({
    endpoints: [`https://127.0.0.1:${alpha.gatePort}`],
    tls: { ca: alpha.ca.root, cert: pair.certificate, key: pair.privateKey },
  });
  const ending = new AbortController();
  const deleted: string[] = [];
  let node = '';
  const following = (async () => {
    for await (const event of store.watch({ prefix: 'cilium/cache/' }, { signal: ending.signal })) {
      if (event.kind === 'delete') deleted.push(event.key);
      if (event.kind === 'put' && event.pair.key === NODE_KEY) node = event.pair.value.toString();
    }
  })();
  const before = await certificateEnd(alpha);
  return {
    async verify(t) {
      await waitFor('another certificate', async () => {
        return (await certificateEnd(alpha)) !== before;
      });
      await beta.writeNode('10.2.0.0/24', MOVED);
      await waitFor('a change to come by the new connection', () => node.includes(MOVED));
      t.same(deleted, [], 'nothing of it was taken away');
      // Over the new connection everything is listed once again, and compared.
      await untilPeer(alpha, 'beta', ({ ready }) => ready);
    },
    async [Symbol.asyncDispose]() {
      ending.abort();
      await following;
      await store[Symbol.asyncDispose]();
    },
  };
}

/** Until when the certificate is valid by which beta is read. */
async function certificateEnd(alpha: PeeringCluster): Promise<string | undefined> {
  const { output } = await runPeering(['peer', 'list', '-o', 'json', ...alpha.flags()]);
  const [view] = JSON.parse(output) as { certificateNotAfter?: string }[];
  return view?.certificateNotAfter;
}
