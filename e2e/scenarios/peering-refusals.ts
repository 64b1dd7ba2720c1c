/** What the preflight of a peer refuses, each on servers that really are as they should not be. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:tls';
import type { Test } from 'tap';
import { parse as parseYaml, stringify } from 'yaml';
import { parseMeshPeerText } from '../../clustermesh-apiserver/peering/mesh-peer.ts';
import { NO_NETWORKS, type PeerFinding } from '../../clustermesh-apiserver/peering/peer-plan.ts';
import { probePeer } from '../../clustermesh-apiserver/peering/peer-probe.ts';
import {
  makeClientKey,
  openPeeringKeyFile,
} from '../../clustermesh-apiserver/peering/peering-key.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { serverLeaf } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type PeeringCluster, runPeering } from './peering-site.ts';

/** A MeshPeer as plain values. */
interface PeerObject {
  metadata: { name: string };
  spec: Record<string, unknown>;
}

/** A refusal: what is odd about the peer, the id that it is refused with, and words that people must be told. */
interface RefusalCase {
  readonly what: string;
  readonly change: (peer: PeerObject) => void;
  readonly id: string;
  readonly words: RegExp;
}

const DAY_MS = 86_400_000;

/**
 * Applies peers to `alpha` that cannot work, made of the export of `beta`, which is its peer already. Nothing may change by it
 * (promises 8 and 12).
 */
export async function testRefusals(
  t: Test,
  lab: { readonly alpha: PeeringCluster; readonly beta: PeeringCluster; readonly exportB: string },
): Promise<void> {
  const { alpha, beta, exportB } = lab;
  const before = await alpha.managed();
  const closed = await findFreePort();
  const expired = await serveTls(t, beta, { notBefore: -3 * DAY_MS, notAfter: -DAY_MS });
  const unborn = await serveTls(t, beta, { notBefore: DAY_MS, notAfter: 3 * DAY_MS });
  const at = (port: number) => (peer: PeerObject) => {
    stranger(peer);
    peer.spec.endpoints = [`https://127.0.0.1:${port}`];
  };
  for (const { what, change, id, words } of [
    ...planCases(),
    {
      what: 'an endpoint where nobody listens',
      change: at(closed),
      id: 'peer-unreachable',
      words: /ECONNREFUSED/,
    },
    {
      what: 'an enrollment listener where nobody listens',
      change: (peer: PeerObject) => {
        stranger(peer);
        peer.spec.enrollment = [`127.0.0.1:${closed}`];
      },
      id: 'peer-unreachable',
      words: /the enrollment listener of gamma: .*ECONNREFUSED/,
    },
    {
      what: 'our own endpoint',
      change: (peer: PeerObject) => {
        at(alpha.gatePort)(peer);
        peer.spec.ca = alpha.ca.root;
        peer.spec.enrollment = [`127.0.0.1:${alpha.enrollmentPort}`];
      },
      id: 'peer-is-ourselves',
      words: /is this cluster, alpha: it shows our own certificate/,
    },
    {
      what: 'our own authority for a server of another one',
      change: (peer: PeerObject) => {
        stranger(peer);
        peer.spec.ca = alpha.ca.root;
      },
      id: 'peer-tls',
      words: /of an authority that is not trusted .*CA of beta.*trusted: .*CA of alpha/,
    },
    {
      what: 'a name that the certificate does not have',
      change: (peer: PeerObject) => {
        stranger(peer);
        peer.spec.endpoints = [`https://etcd.example.org:${beta.gatePort}`];
        peer.spec.hostAliases = [{ hostname: 'etcd.example.org', ips: ['127.0.0.1'] }];
      },
      id: 'peer-tls',
      words: /is not for etcd\.example\.org/,
    },
    {
      what: 'an expired certificate',
      change: at(expired),
      id: 'peer-tls',
      words: /certificate expired .*the clock here says/,
    },
    {
      what: 'a certificate that is not valid yet',
      change: at(unborn),
      id: 'peer-tls',
      words: /certificate is not yet valid/,
    },
    {
      what: 'the endpoints of another cluster',
      change: stranger,
      id: 'peer-wrong-cluster',
      words: /is of cluster beta, not of gamma/,
    },
    {
      what: 'another id than the cluster says itself',
      change: ({ spec }: PeerObject) => {
        spec.clusterId = 7;
      },
      id: 'peer-wrong-cluster',
      words: /says that beta has cluster id 2, and the MeshPeer says 7/,
    },
  ] satisfies readonly RefusalCase[]) {
    const peer = parseYaml(exportB) as PeerObject;
    change(peer);
    const refused = await runPeering(
      ['peer', 'apply', '-f', '-', ...alpha.flags()],
      stringify(peer),
    );
    t.equal(refused.code, 1, `${what}: ${refused.said}`);
    t.match(refused.output, /was refused, nothing was changed/, what);
    t.match(refused.output, new RegExp(`refused: ${id}: `), what);
    t.match(refused.output, words, what);
    t.match(refused.output, /next: \S+[\s\S]*read: docs\/troubleshooting\.md#/, what);
  }
  t.same(await alpha.managed(), before, 'nothing was changed');
}

/** Networks that overlap only by what the nodes of a peer say. */
export async function testLiveOverlap(
  t: Test,
  lab: { readonly alpha: PeeringCluster; readonly beta: PeeringCluster; readonly exportB: string },
): Promise<void> {
  const { alpha, beta, exportB } = lab;
  await beta.writeNode('10.1.0.128/25');
  const peer = parseYaml(exportB) as PeerObject;
  // Another text, or there would be nothing to apply.
  peer.spec.hostAliases = [{ hostname: 'beta.example.org', ips: ['127.0.0.1'] }];
  await waitFor('the node of beta to be in the way', async () => {
    const { output } = await runPeering(
      ['peer', 'apply', '--dry-run', '-f', '-', ...alpha.flags()],
      stringify(peer),
    );
    return /refused: peer-overlapping-networks: 10\.1\.0\.128\/25 \(pods of beta\) and 10\.1\.0\.0\/24 \(pods of alpha\) overlap/.test(
      output,
    );
  });
  t.pass('it is refused by what its nodes say');
}

/** A clock that is wrong by more than certificates forgive: that of who looks, at servers whose clock is right. */
export async function testClock(
  t: Test,
  lab: { readonly alpha: PeeringCluster; readonly exportB: string },
): Promise<void> {
  const { alpha, exportB } = lab;
  const peer = parseMeshPeerText(exportB);
  const look = async (aheadMs: number): Promise<readonly PeerFinding[]> =>
    probePeer(peer, {
      own: {
        name: parseClusterName('alpha'),
        id: parseClusterId(1),
        maxConnectedClusters: 255,
        networks: NO_NETWORKS,
        datapath: {},
      },
      ownCertificate: () => readFile(alpha.server.certificate, 'utf8'),
      ownStoreId: () => undefined,
      key: await openPeeringKeyFile(alpha.file('other', 'peering.key')),
      client: await makeClientKey(),
      readPair: async () => undefined,
      nodeAddresses: [],
      askNodes: async () => undefined,
      clock: { ...systemClock, now: () => Date.now() + aheadMs },
      signal: AbortSignal.timeout(60_000),
    });
  const clockOf = (findings: readonly PeerFinding[]) =>
    findings.find(({ id }) => id === 'peer-clock');
  t.equal(clockOf(await look(0)), undefined);
  t.match(clockOf(await look(100_000)), { severity: 'warning', cause: /s behind ours/ });
  t.match(clockOf(await look(600_000)), {
    severity: 'refusal',
    cause: /the clock of beta is (59\d|60\d) s behind ours \(there .*, here .*\)/,
  });
  t.match(clockOf(await look(-600_000)), { severity: 'refusal', cause: /s ahead of ours/ });
}

/** What needs no server to be refused. */
function planCases(): RefusalCase[] {
  return [
    {
      what: 'our name',
      change: ({ metadata, spec }) => {
        metadata.name = 'alpha';
        spec.clusterId = 9;
      },
      id: 'peer-same-name',
      words: /alpha is the name of this cluster/,
    },
    {
      what: 'our id',
      change: ({ metadata, spec }) => {
        metadata.name = 'gamma';
        spec.clusterId = 1;
      },
      id: 'peer-same-id',
      words: /cluster id 1 of gamma is that of this cluster, alpha/,
    },
    {
      what: 'the id of another peer',
      change: ({ metadata }) => {
        metadata.name = 'gamma';
      },
      id: 'peer-same-id',
      words: /cluster id 2 of gamma is that of peer beta/,
    },
    {
      what: 'a mesh of another size',
      change: ({ spec }) => {
        spec.maxConnectedClusters = 511;
      },
      id: 'peer-mesh-size',
      words: /beta is of a mesh of 511 clusters, alpha of one of 255/,
    },
    {
      what: 'networks that overlap',
      change: ({ spec }) => {
        spec.networks = {
          pods: ['10.1.0.0/16'],
          nodes: ['192.168.2.0/24'],
          services: ['10.96.0.0/12'],
        };
      },
      id: 'peer-overlapping-networks',
      words: /10\.1\.0\.0\/16 \(pods of beta\) and 10\.1\.0\.0\/24 \(pods of alpha\) overlap/,
    },
    {
      what: 'another way of packets',
      change: ({ spec }) => {
        spec.datapath = { routingMode: 'native' };
      },
      id: 'peer-routing-mode',
      words: /beta sends packets in mode native, alpha in mode tunnel/,
    },
    {
      what: 'another port of the tunnel',
      change: ({ spec }) => {
        spec.datapath = { routingMode: 'tunnel', tunnelPort: 8473 };
      },
      id: 'peer-routing-mode',
      words: /beta tunnels to UDP port 8473, alpha to 8472/,
    },
    {
      what: 'another MTU',
      change: ({ spec }) => {
        spec.datapath = { mtu: 9000 };
      },
      id: 'peer-mtu',
      words: /nodes of beta send packets of 9000 bytes, those of alpha of 1500/,
    },
  ];
}

/** Another cluster by name and id, at the same endpoints. */
function stranger({ metadata, spec }: PeerObject): void {
  metadata.name = 'gamma';
  spec.clusterId = 3;
}

/** A server of TLS with a certificate of a cluster that is valid at other times than now. */
async function serveTls(
  t: Test,
  cluster: PeeringCluster,
  validity: { readonly notBefore: number; readonly notAfter: number },
): Promise<number> {
  const now = Date.now();
  const pair = await issueCertificate(cluster.ca, {
    ...serverLeaf(cluster.name),
    notBefore: now + validity.notBefore,
    notAfter: now + validity.notAfter,
  });
  const server = createServer({ cert: pair.certificate, key: pair.privateKey }, (socket) => {
    socket.on('error', () => undefined);
  });
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => new Promise((resolve) => server.close(resolve)));
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('it listens nowhere');
  return address.port;
}
