/** A peer as people write it: in a file of `--peers-dir`, as a custom resource, or in what `clustermesh peer export` prints. */
import { parse as parseYaml, stringify } from 'yaml';
import { z } from 'zod';
import type { HostAlias } from '../../mesh/kvstore/etcd-endpoint.ts';
import { parseUrl } from '../../mesh/kvstore/etcd-endpoint.ts';
import type { CidrLists } from '../../mesh/remote/announced.ts';
import { parseHostPort } from '../../mesh/runtime/option-parsers.ts';
import {
  type ClusterId,
  type ClusterName,
  type MaxConnectedClusters,
  parseClusterId,
  parseClusterName,
  parseMaxConnectedClusters,
} from '../../mesh/wire/ids.ts';
import { parseBundle } from '../gate/certificate-chain.ts';
import { checkObject, ObjectError } from '../sources/object-error.ts';
import { ipField, metadataField, prefixField } from '../sources/object-fields.ts';

/** Group and version of our custom resources. */
export const MESH_PEER_API_VERSION = 'isthmus.io/v1alpha1';

/** How traffic leaves a cluster's nodes. */
export const ROUTING_MODES = ['tunnel', 'native'] as const;

/** What a cluster's data path expects of every other one. Absent: not known. */
export interface PeerDatapath {
  readonly routingMode?: (typeof ROUTING_MODES)[number] | undefined;
  /** UDP port of the overlay. */
  readonly tunnelPort?: number | undefined;
  /** Largest packet between nodes, in bytes. */
  readonly mtu?: number | undefined;
}

/** Where the client certificate is that a peer has given to us; undefined: we enrol there by our peering key. */
export type PeerClientCertificate =
  | { readonly kind: 'files'; readonly certFile: string; readonly keyFile: string }
  /** A Secret in the apiserver's namespace with `tls.crt` and `tls.key`. */
  | { readonly kind: 'secret'; readonly name: string };

/** What is wanted of one peer. */
export interface MeshPeerSpec {
  readonly clusterId: ClusterId;
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** Of its gate, or of its etcd where Cilium runs it: `https://host:port`. */
  readonly endpoints: readonly string[];
  /** Where we enrol, `host:port`; none: it gives out no certificates. */
  readonly enrollment: readonly string[];
  readonly hostAliases: readonly HostAlias[];
  /** PEM, one authority or more. */
  readonly ca: string;
  /** SHA-256 of the peering key (SPKI) by which it enrols with us, base64url; undefined: it does not. */
  readonly clientKeyHash: string | undefined;
  /** What it may announce; undefined: what it announces first. */
  readonly networks: CidrLists | undefined;
  readonly datapath: PeerDatapath;
  readonly clientCertificate: PeerClientCertificate | undefined;
}

/** A peer. */
export interface MeshPeer {
  /** Name of its cluster. */
  readonly name: ClusterName;
  /** `metadata.generation` of the custom resource; 0 in files. */
  readonly generation: number;
  /** `metadata.uid` of the custom resource; empty in files. */
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly spec: MeshPeerSpec;
}

/** SHA-256 in base64url without padding. */
const KEY_HASH = /^[A-Za-z0-9_-]{43}$/;
const MOST_ENDPOINTS = 16;
const MOST_NETWORKS = 1024;
const MOST_CA_BYTES = 64 * 1024;

const endpointField = z.string().refine((url) => parses(() => isHttps(url)), {
  error: 'expected https://host:port',
});
const placeField = z.string().refine((place) => parses(() => isPlace(place)), {
  error: 'expected host:port',
});
const networksField = z.array(prefixField).max(MOST_NETWORKS).default([]);
const caField = z
  .string()
  .max(MOST_CA_BYTES)
  .superRefine((pem, context) => {
    try {
      parseBundle(Buffer.from(pem));
    } catch (error) {
      context.addIssue({ code: 'custom', message: messageOf(error) });
    }
  });

const schema = z.object({
  apiVersion: z.literal(MESH_PEER_API_VERSION),
  kind: z.literal('MeshPeer'),
  metadata: metadataField,
  // What is misspelt would be left out without a word: the API server says so, and so do we.
  spec: z.strictObject({
    clusterId: z.number().int().min(1).max(511),
    maxConnectedClusters: z.number().default(255),
    endpoints: z.array(endpointField).min(1).max(MOST_ENDPOINTS),
    enrollment: z.array(placeField).max(MOST_ENDPOINTS).default([]),
    hostAliases: z
      .array(z.strictObject({ hostname: z.string().min(1), ips: z.array(ipField).min(1) }))
      .max(MOST_ENDPOINTS)
      .default([]),
    ca: caField,
    clientKeyHash: z
      .string()
      .regex(KEY_HASH, 'expected a SHA-256 in base64url, 43 characters')
      .optional(),
    networks: z
      .strictObject({
        pods: networksField,
        services: networksField,
        nodes: networksField,
        machines: networksField,
      })
      .optional(),
    datapath: z
      .strictObject({
        routingMode: z.enum(ROUTING_MODES).optional(),
        tunnelPort: z.number().int().min(1).max(65_535).optional(),
        mtu: z.number().int().min(1280).max(65_535).optional(),
      })
      .default({}),
    clientCertificate: z
      .strictObject({ certFile: z.string().min(1), keyFile: z.string().min(1) })
      .optional(),
    clientCertificateSecret: z.string().min(1).optional(),
  }),
});

/** Parses a MeshPeer. Throws ObjectError naming the field. */
export function parseMeshPeer(input: unknown): MeshPeer {
  const { metadata, spec } = checkObject(schema, input);
  const name = atPath('metadata.name', () => parseClusterName(metadata.name));
  const max = atPath('spec.maxConnectedClusters', () =>
    parseMaxConnectedClusters(spec.maxConnectedClusters),
  );
  const clusterId = atPath('spec.clusterId', () => parseClusterId(spec.clusterId, max));
  const { clientCertificate: files, clientCertificateSecret: secret } = spec;
  if (files !== undefined && secret !== undefined) {
    throw wrong('spec.clientCertificateSecret', 'there is a clientCertificate as well');
  }
  if (spec.enrollment.length > 0 && (files !== undefined || secret !== undefined)) {
    throw wrong('spec.enrollment', 'with a client certificate of its own nothing is enrolled');
  }
  if (spec.enrollment.length === 0 && files === undefined && secret === undefined) {
    throw wrong(
      'spec.enrollment',
      'expected where we enrol with the peer, or a client certificate that it has given to us',
    );
  }
  return {
    name,
    generation: metadata.generation,
    uid: metadata.uid,
    labels: metadata.labels,
    spec: {
      clusterId,
      maxConnectedClusters: max,
      endpoints: spec.endpoints,
      enrollment: spec.enrollment,
      hostAliases: spec.hostAliases,
      ca: tidyPem(spec.ca),
      clientKeyHash: spec.clientKeyHash,
      networks: spec.networks,
      datapath: spec.datapath,
      clientCertificate:
        files !== undefined
          ? { kind: 'files', ...files }
          : secret === undefined
            ? undefined
            : { kind: 'secret', name: secret },
    },
  };
}

/** Parses a MeshPeer in YAML or JSON. Throws ObjectError. */
export function parseMeshPeerText(text: string): MeshPeer {
  let input: unknown;
  try {
    input = parseYaml(text);
  } catch (cause) {
    throw wrong('', `it is not YAML: ${messageOf(cause).split('\n')[0]}`);
  }
  return parseMeshPeer(input);
}

/** The object as it is written: the same peer gives the same one, whatever way it came. */
export function meshPeerObject({ name, spec }: Pick<MeshPeer, 'name' | 'spec'>): object {
  const { clientCertificate, networks, datapath } = spec;
  const hasDatapath = Object.values(datapath).some((value) => value !== undefined);
  return withoutUndefined({
    apiVersion: MESH_PEER_API_VERSION,
    kind: 'MeshPeer',
    metadata: { name },
    spec: withoutUndefined({
      clusterId: spec.clusterId,
      maxConnectedClusters: spec.maxConnectedClusters,
      endpoints: spec.endpoints,
      enrollment: spec.enrollment.length > 0 ? spec.enrollment : undefined,
      hostAliases: spec.hostAliases.length > 0 ? spec.hostAliases : undefined,
      ca: spec.ca,
      clientKeyHash: spec.clientKeyHash,
      networks,
      datapath: hasDatapath ? withoutUndefined(datapath) : undefined,
      clientCertificate:
        clientCertificate?.kind === 'files'
          ? { certFile: clientCertificate.certFile, keyFile: clientCertificate.keyFile }
          : undefined,
      clientCertificateSecret:
        clientCertificate?.kind === 'secret' ? clientCertificate.name : undefined,
    }),
  });
}

/** The same as YAML. */
export function formatMeshPeer(peer: Pick<MeshPeer, 'name' | 'spec'>): string {
  return stringify(meshPeerObject(peer), { lineWidth: 0 });
}

function withoutUndefined(fields: object): object {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function isHttps(url: string): boolean {
  return parseUrl(url).secure;
}

function isPlace(place: string): boolean {
  const { host, port } = parseHostPort(place);
  return host !== '' && port > 0;
}

/** Certificates alone, as they are: comments and blank lines around them say nothing. */
function tidyPem(pem: string): string {
  return parseBundle(Buffer.from(pem))
    .map((certificate) => certificate.toString())
    .join('');
}

function parses(check: () => boolean): boolean {
  try {
    return check();
  } catch {
    return false;
  }
}

function atPath<T>(field: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw wrong(field, messageOf(error));
  }
}

function wrong(field: string, why: string): ObjectError {
  return new ObjectError(
    'bad-object',
    field,
    `${field === '' ? 'the object' : `field ${field}`}: ${why}`,
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
