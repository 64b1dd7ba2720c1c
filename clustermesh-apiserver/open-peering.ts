/** Declared peers, put together: store, key, folders, what administrators ask, and what gate, enrollment and mirror need. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KvError, type KvStore } from '../mesh/kvstore/kvstore.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import type { IpPrefix } from '../mesh/wire/ip.ts';
import { nodesPrefix } from '../mesh/wire/keys.ts';
import { parseBundle } from './gate/certificate-chain.ts';
import type { TrustFiles } from './gate/trust.ts';
import type { KubernetesApi } from './kubernetes/api.ts';
import type { Kvstoremesh } from './kvstoremesh/kvstoremesh.ts';
import { reportOf } from './kvstoremesh/peer-view.ts';
import { createFilePeerStore } from './peering/file-peer-store.ts';
import {
  createKubernetesPeerStore,
  openPeeringKeySecret,
} from './peering/kubernetes-peer-store.ts';
import { openManagedFolders } from './peering/managed-folders.ts';
import { makeOwnPeer, type OwnPeer } from './peering/own-peer.ts';
import { createPeerAdmin, type PeerAdmin } from './peering/peer-admin.ts';
import { createPeerHistory } from './peering/peer-history.ts';
import { NO_NETWORKS, type OwnCluster } from './peering/peer-plan.ts';
import { probePeer } from './peering/peer-probe.ts';
import { addressesOfNodes } from './peering/peer-reach.ts';
import type { PeerStore } from './peering/peer-store.ts';
import { createPeering, type Peering } from './peering/peering.ts';
import {
  type ClientKey,
  makeClientKey,
  openPeeringKeyFile,
  type PeeringKey,
} from './peering/peering-key.ts';
import { managedFolderPaths, type PeeringSettings } from './peering-options.ts';
import type { AdminCaller } from './registry/admin.ts';
import type { NodeProber } from './registry/node-prober.ts';

/** What peering needs of the parts around it. All of it may be there later than peering is. */
export interface PeeringSurroundings {
  readonly gate: () => HostPort | undefined;
  /** Where the enrollment listener listens; undefined: there is none. */
  readonly enrollment: () => HostPort | undefined;
  readonly mirror: () => Kvstoremesh | undefined;
  /** Networks of the pods of this cluster, as its nodes say. */
  readonly podNetworks: () => readonly IpPrefix[];
  /** Has nodes look whether they reach others. */
  readonly prober: Pick<NodeProber, 'ask'>;
}

/** Options of `openPeering`. */
export interface OpenPeeringOptions {
  readonly settings: PeeringSettings;
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  readonly files: Pick<TrustFiles, 'certFile' | 'ownCaFile'>;
  /** The API server, for a source that is one. */
  readonly api: KubernetesApi | undefined;
  readonly store: KvStore;
  readonly surroundings: PeeringSurroundings;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** Peering with what administrators ask of it. */
export interface OpenedPeering extends Peering {
  readonly admin: PeerAdmin;
  /** How the objects of the peers are being read; undefined: they are files. */
  readonly reading: () => ReturnType<NonNullable<PeerStore['reading']>>;
}

/** Opens it; nothing is put into force before `run`. Throws PeeringError `key`. */
export async function openPeering(options: OpenPeeringOptions): Promise<OpenedPeering> {
  const { settings, cluster, maxConnectedClusters, store, surroundings, clock } = options;
  const logger = options.logger.child({ part: 'peering' });
  const { peerStore, key } = await openPeerStore(options, logger);
  const own = (): OwnCluster => ({
    ...cluster,
    maxConnectedClusters,
    networks: settings.networks ?? { ...NO_NETWORKS, pods: surroundings.podNetworks() },
    datapath: settings.datapath,
  });
  const peering = await createPeering({
    peerStore,
    folders: await openManagedFolders(managedFolderPaths(settings)),
    key,
    own,
    reportOf(name) {
      const peer = surroundings.mirror()?.peers.find(({ source }) => source.name === name);
      return peer === undefined ? undefined : reportOf(peer);
    },
    // Who does not lead does not see how peers are read.
    writesStatus: () => surroundings.mirror()?.leader === 'leading',
    clock,
    logger,
  });
  let client: Promise<ClientKey> | undefined;
  const admin = createPeerAdmin({
    peering,
    peerStore,
    history: createPeerHistory({ store, clock }),
    own,
    exportOwn: (caller) => exportOwn(caller, { ...options, key }),
    async probe(peer, { nodeAddresses, signal }) {
      client ??= makeClientKey();
      return probePeer(peer, {
        nodeAddresses,
        askNodes: (question) => surroundings.prober.ask(question, signal),
        own: own(),
        ownCertificate: () => readFile(options.files.certFile, 'utf8'),
        ownStoreId: () => store.clusterId,
        key,
        client: await client,
        readPair: async () =>
          peer.spec.clientCertificate === undefined
            ? peering.certificateOf(peer.name)
            : peerStore.readClientCertificate(peer, signal),
        clock,
        signal,
      });
    },
    logger,
  });
  // Accessors stay accessors.
  return Object.defineProperties(
    { admin, reading: () => peerStore.reading?.() },
    Object.getOwnPropertyDescriptors(peering),
  ) as OpenedPeering;
}

async function openPeerStore(
  { settings, api, clock, signal }: OpenPeeringOptions,
  logger: Logger,
): Promise<{ peerStore: PeerStore; key: PeeringKey }> {
  const { source, folder, keyFile = join(folder, 'peering.key') } = settings;
  if (source.kind === 'kubernetes') {
    if (api === undefined) throw new Error('MeshPeer objects are read from an API server');
    const namespace = source.namespace ?? api.namespace;
    return {
      peerStore: createKubernetesPeerStore(api, { namespace, clock, logger }),
      key:
        settings.keyFile === undefined
          ? await openPeeringKeySecret(api, { namespace, signal })
          : await openPeeringKeyFile(keyFile),
    };
  }
  const key = await openPeeringKeyFile(keyFile);
  return { peerStore: createFilePeerStore(source.directory, { clock, logger }), key };
}

/** Of some of our nodes; none while etcd does not answer: what a cluster is can be told without. */
async function ownNodeAddresses(
  { store, cluster }: Pick<OpenPeeringOptions, 'store' | 'cluster'>,
  signal: AbortSignal,
): Promise<readonly string[]> {
  try {
    return addressesOfNodes((await store.list(nodesPrefix(cluster.name), { signal })).pairs);
  } catch (error) {
    if (!(error instanceof KvError)) throw error;
    return [];
  }
}

/** This cluster for others. Without advertised addresses it is where the caller has reached us. */
async function exportOwn(
  { to, signal }: Pick<AdminCaller, 'to' | 'signal'>,
  options: OpenPeeringOptions & { readonly key: PeeringKey },
): Promise<
  OwnPeer & { readonly notes: readonly string[]; readonly nodeAddresses: readonly string[] }
> {
  const { settings, cluster, files, surroundings, key } = options;
  const { advertiseGate, advertiseEnrollment } = settings;
  const gate = surroundings.gate();
  const enrollment = surroundings.enrollment();
  const here = to.replace(/^::ffff:/, '');
  const hostOf = ({ host }: HostPort): string =>
    host === '::' || host === '0.0.0.0' ? here : host;
  const gates =
    advertiseGate.length > 0 || gate === undefined
      ? advertiseGate
      : [{ host: hostOf(gate), port: gate.port }];
  const places = (): readonly HostPort[] => {
    if (enrollment === undefined) return [];
    if (advertiseEnrollment.length > 0) return advertiseEnrollment;
    return [...new Set(gates.map(({ host }) => host))].map((host) => ({
      host,
      port: enrollment.port,
    }));
  };
  const [certificate, ca] = await Promise.all([
    readFile(files.certFile),
    readFile(files.ownCaFile),
  ]);
  const made = makeOwnPeer({
    ...cluster,
    maxConnectedClusters: options.maxConnectedClusters,
    gates,
    enrollment: places(),
    certificate,
    ca: parseBundle(ca)
      .map((authority) => authority.toString())
      .join(''),
    keyHash: key.hash,
    networks: settings.networks,
    datapath: settings.datapath,
  });
  const nodeAddresses = await ownNodeAddresses(options, signal);
  const notes =
    advertiseGate.length === 0
      ? [
          `the endpoints are where this call came in, ${here}: if peers reach this cluster elsewhere, start its apiserver with --advertise-gate`,
        ]
      : [];
  return { ...made, notes, nodeAddresses };
}
