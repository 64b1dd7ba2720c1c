/**
 * What can be checked of a pair by itself, without knowing who published it: that the value says the same as its key, and
 * that numbers of clusters and identities are of the mesh's range. Cilium's readers check the same against the peer that
 * they read from (`pkg/node/store`, `pkg/clustermesh/store`, `pkg/ipcache`, `pkg/identity`, `pkg/allocator`); what only
 * they can know is in `validate.ts`. Each check throws a WireError `bad-field` that names the field.
 */
import type { ClusterConfig } from './cluster-config.ts';
import type { DecodedPair } from './decode-any.ts';
import { CLUSTER_LABEL, decodeLabels, type Labels } from './identity.ts';
import {
  type ClusterName,
  clusterIdOfIdentity,
  type MaxConnectedClusters,
  MINIMUM_ALLOCATED_IDENTITY,
  type NumericIdentity,
  parseClusterName,
} from './ids.ts';
import type { IpIdentity } from './ip-identity.ts';
import { type FieldPath, failField, parseField } from './json.ts';
import { keyTextOfPrefix } from './keys.ts';
import type { KeyOf } from './parse-key.ts';

/** Words of `endpointSlicesExportMode`; a reader that meets another one refuses the cluster. */
const EXPORT_MODES: readonly string[] = ['services-and-endpointslices', 'endpointslices-only'];

type At = (field: string) => FieldPath;

/** Checks a pair. `text` is its key, for messages. Throws WireError. */
export function checkPair(pair: DecodedPair, text: string, max: MaxConnectedClusters): void {
  const at: At = (field) => ({ key: text, field });
  switch (pair.kind) {
    case 'node':
      checkEqual(at('Cluster'), pair.value.cluster, pair.key.cluster);
      checkEqual(at('Name'), pair.value.name, pair.key.name);
      checkClusterId(at('ClusterID'), pair.value.clusterId, max);
      break;
    case 'ip':
      checkIp(pair.value, pair.key, at, max);
      break;
    case 'identity':
      checkAllocatedIdentity(at('id'), pair.key.id, max);
      checkLabels(pair.value, pair.key.cluster, at);
      break;
    case 'identity-reference':
      checkLabels(decodeLabels(pair.key.labels, text), undefined, at);
      checkAllocatedIdentity(at('identity'), pair.value, max);
      break;
    case 'service':
    case 'endpoint-slice':
      checkObject(pair.value, pair.key, at);
      checkClusterId(at('clusterID'), pair.value.clusterId, max);
      break;
    case 'service-export':
      checkObject(pair.value, pair.key, at);
      break;
    case 'cluster-config':
      checkConfig(pair.value, at, max);
      break;
    case 'local-service':
      checkName(pair.value, pair.key, at);
      break;
    case 'local-policy':
      checkEqual(at('kind'), pair.value.kind, pair.key.policyKind);
      checkName(pair.value, pair.key, at);
      break;
    case 'synced':
    case 'heartbeat':
    case 'mesh-digest':
    case 'mesh-stamp':
    case 'mesh-peer':
    case 'internal':
      break;
    default:
      pair satisfies never;
  }
}

/** Cluster that a pair belongs to, where its key or its value says so. */
export function clusterOfPair(pair: DecodedPair): ClusterName | undefined {
  if ('cluster' in pair.key && pair.key.cluster !== undefined) return pair.key.cluster;
  if (pair.kind !== 'identity') return undefined;
  const value = pair.value.find(isClusterLabel)?.value;
  return value === undefined ? undefined : parseClusterName(value);
}

function checkIp(record: IpIdentity, key: KeyOf<'ip'>, at: At, max: MaxConnectedClusters): void {
  const said = keyTextOfPrefix(record.prefix, record.isCidr);
  checkEqual(at('IP'), said, keyTextOfPrefix(key.prefix, key.isCidr));
  // Cilium's readers take every identity below the first that is allocated; which of them they use is theirs to say.
  if (record.identity >= MINIMUM_ALLOCATED_IDENTITY) {
    checkAllocatedIdentity(at('ID'), record.identity, max);
  }
}

function checkLabels(labels: Labels, cluster: ClusterName | undefined, at: At): void {
  const label = labels.find(isClusterLabel);
  const field = at(`k8s:${CLUSTER_LABEL}`);
  if (label === undefined) failField(field, undefined, 'the name of the cluster');
  const name = parseField(field, label.value, parseClusterName);
  if (cluster !== undefined) checkEqual(field, name, cluster);
}

function isClusterLabel(label: { readonly source: string; readonly key: string }): boolean {
  return label.key === CLUSTER_LABEL && label.source === 'k8s';
}

interface Named {
  readonly namespace: string;
  readonly name: string;
}

function checkObject(
  value: Named & { readonly cluster: string },
  key: Named & { readonly cluster: string },
  at: At,
): void {
  checkEqual(at('cluster'), value.cluster, key.cluster);
  checkName(value, key, at);
}

function checkName(value: Named, key: Named, at: At): void {
  checkEqual(at('namespace'), value.namespace, key.namespace);
  checkEqual(at('name'), value.name, key.name);
}

function checkConfig(config: ClusterConfig, at: At, max: MaxConnectedClusters): void {
  const { maxConnectedClusters, endpointSlicesExportMode: mode } = config.capabilities;
  checkClusterId(at('id'), config.id, max);
  if (config.id > (maxConnectedClusters ?? 255)) {
    failField(at('id'), config.id, `1 to ${maxConnectedClusters ?? 255}, as its capabilities say`);
  }
  if (mode !== undefined && !EXPORT_MODES.includes(mode)) {
    failField(at('capabilities.endpointSlicesExportMode'), mode, EXPORT_MODES.join(' or '));
  }
}

function checkClusterId(at: FieldPath, id: number, max: MaxConnectedClusters): void {
  if (id < 1 || id > max) failField(at, id, `1 to ${max}`);
}

/** An identity that some cluster of the mesh allocated: never one of a cluster outside a mesh, whose id is 0. */
function checkAllocatedIdentity(
  at: FieldPath,
  id: NumericIdentity,
  max: MaxConnectedClusters,
): void {
  const cluster = clusterIdOfIdentity(id, max);
  if (cluster < 1 || cluster > max) {
    failField(at, id, `an identity of a cluster of 1 to ${max}, it is one of cluster ${cluster}`);
  }
}

function checkEqual(at: FieldPath, found: string, expected: string): void {
  if (found !== expected) failField(at, found, `${JSON.stringify(expected)}, as its key says`);
}
