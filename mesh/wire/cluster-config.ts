/** What a cluster says of itself (`pkg/clustermesh/types.CiliumClusterConfig`); every field may be left out. */
import { type MaxConnectedClusters, parseMaxConnectedClusters } from './ids.ts';
import {
  encodeGoJson,
  fieldOf,
  parseField,
  parseJsonObject,
  readBoolean,
  readObject,
  readOptionalString,
  readUint,
} from './json.ts';

/** Number of a cluster and what it can do, as it publishes them itself. */
export interface ClusterConfig {
  /** 0 when absent, and then readers refuse the cluster. */
  readonly id: number;
  readonly capabilities: {
    /** Synced markers exist. */
    readonly syncedCanaries: boolean;
    /** Data lies under `cilium/cache`, each key with its cluster. */
    readonly cached: boolean;
    readonly maxConnectedClusters: MaxConnectedClusters | undefined;
    /** Absent: service exports are not supported; false: supported and off. */
    readonly serviceExportsEnabled: boolean | undefined;
    /** Absent: services only. */
    readonly endpointSlicesExportMode: string | undefined;
  };
}

/** Encodes a cluster configuration; the object `capabilities` is always there. */
export function encodeClusterConfig(config: ClusterConfig): string {
  const { capabilities } = config;
  return encodeGoJson({
    id: config.id === 0 ? undefined : config.id,
    capabilities: {
      syncedCanaries: capabilities.syncedCanaries || undefined,
      cached: capabilities.cached || undefined,
      maxConnectedClusters: capabilities.maxConnectedClusters,
      serviceExportsEnabled: capabilities.serviceExportsEnabled,
      endpointSlicesExportMode: capabilities.endpointSlicesExportMode || undefined,
    },
  });
}

/** Decodes a cluster configuration. Throws WireError naming key and field. */
export function decodeClusterConfig(value: Buffer | string, key: string): ClusterConfig {
  const object = parseJsonObject(value, key);
  const inner = readObject({ key, field: 'capabilities' }, fieldOf(object, 'capabilities')) ?? {};
  const at = (name: string) => ({ key, field: `capabilities.${name}` });
  const exportsEnabled = fieldOf(inner, 'serviceExportsEnabled');
  const max = readUint(
    at('maxConnectedClusters'),
    fieldOf(inner, 'maxConnectedClusters'),
    2 ** 32 - 1,
  );
  return {
    id: readUint({ key, field: 'id' }, fieldOf(object, 'id'), 2 ** 32 - 1),
    capabilities: {
      syncedCanaries: readBoolean(at('syncedCanaries'), fieldOf(inner, 'syncedCanaries')),
      cached: readBoolean(at('cached'), fieldOf(inner, 'cached')),
      maxConnectedClusters:
        max === 0
          ? undefined
          : parseField(at('maxConnectedClusters'), max, parseMaxConnectedClusters),
      serviceExportsEnabled:
        exportsEnabled === undefined || exportsEnabled === null
          ? undefined
          : readBoolean(at('serviceExportsEnabled'), exportsEnabled),
      endpointSlicesExportMode: readOptionalString(
        at('endpointSlicesExportMode'),
        fieldOf(inner, 'endpointSlicesExportMode'),
      ),
    },
  };
}
