/** Under which keys a record stands in etcd, and what stands there. */
import { encodeLabels } from '../../mesh/wire/identity.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { encodeIpIdentity } from '../../mesh/wire/ip-identity.ts';
import {
  identitiesPrefix,
  identityKey,
  ipKey,
  ipsPrefix,
  LOCAL_IDENTITIES_PREFIX,
  LOCAL_IPS_PREFIX,
  LOCAL_POLICIES_PREFIX,
  LOCAL_SERVICES_PREFIX,
  localPolicyKey,
  localServiceKey,
  nodeKey,
  nodesPrefix,
  serviceExportKey,
  serviceExportsPrefix,
  serviceKey,
  servicesPrefix,
} from '../../mesh/wire/keys.ts';
import { encodeLocalPolicy } from '../../mesh/wire/local-policy.ts';
import { encodeLocalService } from '../../mesh/wire/local-service.ts';
import { encodeNode } from '../../mesh/wire/node.ts';
import { encodeClusterService } from '../../mesh/wire/service.ts';
import { encodeServiceExport } from '../../mesh/wire/service-export.ts';
import type { ConversionMode, PublishedSet } from '../convert/published-sets.ts';
import type { RecordChange } from '../convert/records.ts';

/** Records whose keys are known without asking etcd for a number. */
export type KeyedChange = Exclude<RecordChange, { readonly kind: 'endpoint' | 'warnings' }>;

/** A key and what it shall hold; undefined for nothing. */
export type KeyChange = readonly [key: string, value: string | undefined];

/** Keys of a record. Throws WireError for what has no wire form. */
export function keysOf(change: KeyedChange, cluster: ClusterName): readonly KeyChange[] {
  switch (change.kind) {
    case 'node':
      return [[nodeKey(cluster, change.name), change.value && encodeNode(change.value)]];
    case 'ip':
      return [[ipKey(change.address), change.value && encodeIpIdentity(change.value)]];
    case 'identity':
      return [[identityKey(change.id), change.value && encodeLabels(change.value)]];
    case 'service': {
      const { namespace, name, value } = change;
      const exported = value?.exported;
      return [
        [serviceKey(cluster, namespace, name), exported && encodeClusterService(exported)],
        [localServiceKey(namespace, name), value && encodeLocalService(value.local)],
      ];
    }
    case 'service-export': {
      const key = serviceExportKey(cluster, change.namespace, change.name);
      return [[key, change.value && encodeServiceExport(change.value)]];
    }
    case 'policy': {
      const key = localPolicyKey(change.policyKind, change.namespace, change.name);
      return [[key, change.value && encodeLocalPolicy(change.value)]];
    }
    default:
      throw change satisfies never;
  }
}

/** A record in words, for a log. */
export function describeRecord(change: RecordChange): string {
  switch (change.kind) {
    case 'node':
      return `node ${change.name}`;
    case 'endpoint':
    case 'ip':
      return `address ${change.address} of pod ${change.value?.namespace}/${change.value?.podName}`;
    case 'identity':
      return `identity ${change.id}`;
    case 'service':
    case 'service-export':
      return `${change.kind} ${change.namespace}/${change.name}`;
    case 'policy':
      return `${change.policyKind} ${change.namespace}/${change.name}`;
    case 'warnings':
      return `warnings of ${change.object.kind} ${change.object.namespace}/${change.object.name}`;
    default:
      throw change satisfies never;
  }
}

/**
 * Prefix under which the publisher alone writes a set, and whose leftovers it may sweep. Identities that we allocate are not
 * among them: several replicas write them, and they outlive their pods for a while.
 */
export function prefixOfSet(
  set: PublishedSet,
  cluster: ClusterName,
  mode: ConversionMode,
): string | undefined {
  switch (set) {
    case 'nodes':
      return nodesPrefix(cluster);
    case 'ips':
      return ipsPrefix(cluster);
    case 'identities':
      return mode === 'cilium' ? identitiesPrefix(cluster) : undefined;
    case 'services':
      return servicesPrefix(cluster);
    case 'serviceexports':
      return serviceExportsPrefix(cluster);
    case 'local-ips':
      return LOCAL_IPS_PREFIX;
    case 'local-identities':
      return mode === 'cilium' ? LOCAL_IDENTITIES_PREFIX : undefined;
    case 'local-services':
      return LOCAL_SERVICES_PREFIX;
    case 'local-policies':
      return LOCAL_POLICIES_PREFIX;
    default:
      throw set satisfies never;
  }
}
