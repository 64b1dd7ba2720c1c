/** Nodes of a peer that nodes of ours do not reach: seen by an agent's session, refused before anything changes. */
import { createSocket } from 'node:dgram';
import type { Test } from 'tap';
import { createNodeSession } from '../../agent/registry/session.ts';
import { lookAtNodes } from '../../agent/withdrawal/reach.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { nodeLeaf } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type PeeringCluster, runPeering } from './peering-site.ts';

/** Where the one node of beta is said to be; its kernel answers for itself, and UDP 8472 is closed until somebody listens. */
const NODE = '127.0.0.77';

/** Connects clusters that are not connected (promise 12). Afterwards they are not connected either. */
export async function testUnreachableNodes(
  t: Test,
  { alpha, beta }: { readonly alpha: PeeringCluster; readonly beta: PeeringCluster },
): Promise<void> {
  const pair = [...alpha.flags(), ...beta.flags('destination')];
  const connect = (...more: string[]) => runPeering(['connect', ...pair, '--no-wait', ...more]);
  t.equal((await runPeering(['disconnect', ...pair])).code, 0);
  await beta.writeNode('10.2.0.0/24', NODE);
  await waitFor('the unknown to be said', async () => {
    const { output } = await connect('--dry-run');
    return /warning: peer-nodes-unreachable: .*not known: no agent of alpha/.test(output);
  });

  await using _session = joinNode(alpha);
  await waitFor('the node of alpha to look', async () => {
    const { output } = await connect('--dry-run');
    return output.includes(`none is reached: ${NODE} from alpha-1: UDP port 8472 is closed`);
  });
  const refused = await connect();
  t.equal(refused.code, 1, refused.said);
  t.match(refused.output, /alpha: beta would be refused\n[\s\S]*refused: peer-nodes-unreachable: /);
  t.same([await alpha.managed(), await beta.managed()], [{}, {}], 'nothing was changed');
  const ignored = await connect('--ignore', 'peer-nodes-unreachable', '--dry-run');
  t.equal(ignored.code, 0, ignored.output);

  const listener = createSocket('udp4').bind(8472, NODE);
  await new Promise((resolve) => listener.once('listening', resolve));
  const open = await connect('--dry-run');
  listener.close();
  t.equal(open.code, 0);
  t.notMatch(open.output, /from alpha-1/, 'an open port is nothing to speak of');
}

/** The session of a node of a cluster, as its agent has it. */
function joinNode({ ca, name, registryPort }: PeeringCluster): AsyncDisposable {
  const ending = new AbortController();
  const session = createNodeSession({
    registry: { host: '127.0.0.1', port: registryPort },
    lookAtNodes,
    async readTls() {
      const pair = await issueCertificate(ca, nodeLeaf(`${name}-1`));
      return { ca: ca.root, cert: pair.certificate, key: pair.privateKey };
    },
    clusterName: parseClusterName(name),
    nodeName: `${name}-1`,
    agentVersion: '0.1.0',
    facts: { addresses: [parseIpAddress('192.168.1.1')], podCidrs: [], bootId: 'b1' },
    clock: systemClock,
    logger: createLogger('peering', { level: 'silent' }),
  });
  const ended = session.run(ending.signal);
  return {
    async [Symbol.asyncDispose]() {
      ending.abort();
      await ended;
    },
  };
}
