/** This cluster as a MeshPeer for others: what `clustermesh peer export` prints. Nothing in it is secret. Pure. */

import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import type { CidrLists } from '../../mesh/remote/announced.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import type { MeshPeer, PeerDatapath } from './mesh-peer.ts';

/** Domain under which every apiserver has a name, as Cilium's have. */
const MESH_DOMAIN = 'mesh.cilium.io';

/** What goes into it. */
export interface OwnPeerFacts {
  readonly name: ClusterName;
  readonly id: ClusterId;
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** Where others reach our gate. */
  readonly gates: readonly HostPort[];
  /** Where others enrol; none: they cannot. */
  readonly enrollment: readonly HostPort[];
  /** PEM of the gate's certificate: endpoints have names that it bears. */
  readonly certificate: string | Buffer;
  /** PEM of our authorities. */
  readonly ca: string;
  readonly keyHash: string;
  /** Undefined: others take what we announce first. */
  readonly networks: CidrLists | undefined;
  readonly datapath: PeerDatapath;
}

/** What came of it; `reason` is for people. */
export type OwnPeer =
  | { readonly kind: 'peer'; readonly peer: Pick<MeshPeer, 'name' | 'spec'> }
  | { readonly kind: 'unusable'; readonly reason: string };

/** Makes it. */
export function makeOwnPeer(facts: OwnPeerFacts): OwnPeer {
  const { name, gates, enrollment } = facts;
  if (enrollment.length === 0) {
    return unusable(
      'peers cannot enrol here: start the apiserver with --enrollment-address, --enrollment-ca-cert-file and --enrollment-ca-key-file',
    );
  }
  const leaf = new X509Certificate(facts.certificate);
  const meshName = `${name}.${MESH_DOMAIN}`;
  const endpoints = new Set<string>();
  const aliased: IpAddress[] = [];
  for (const { host, port } of gates) {
    const isAddress = isIP(host) !== 0;
    const bears = isAddress ? leaf.checkIP(host) : leaf.checkHost(host);
    if (bears !== undefined) {
      endpoints.add(`https://${host.includes(':') ? `[${host}]` : host}:${port}`);
    } else if (isAddress && leaf.checkHost(meshName) !== undefined) {
      endpoints.add(`https://${meshName}:${port}`);
      aliased.push(parseIpAddress(host));
    } else {
      return unusable(
        `the certificate of the gate is not for ${host} (--advertise-gate): it is for ${leaf.subjectAltName ?? 'no names'}`,
      );
    }
  }
  const hostAliases = aliased.length === 0 ? [] : [{ hostname: meshName, ips: aliased }];
  const spec: MeshPeer['spec'] = {
    clusterId: facts.id,
    maxConnectedClusters: facts.maxConnectedClusters,
    endpoints: [...endpoints],
    enrollment: enrollment.map(
      ({ host, port }) => `${host.includes(':') ? `[${host}]` : host}:${port}`,
    ),
    hostAliases,
    ca: facts.ca,
    clientKeyHash: facts.keyHash,
    networks: facts.networks,
    datapath: facts.datapath,
    clientCertificate: undefined,
  };
  return { kind: 'peer', peer: { name, spec } };
}

function unusable(reason: string): OwnPeer {
  return { kind: 'unusable', reason };
}
