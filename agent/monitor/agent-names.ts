/** Names for numbers from an agent's own tables. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import {
  clusterIdOfIdentity,
  type MaxConnectedClusters,
  MINIMUM_ALLOCATED_IDENTITY,
  parseNumericIdentity,
} from '../../mesh/wire/ids.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import type { EndpointRecord } from '../endpoints/record.ts';
import type { Engine } from '../state/engine.ts';
import type { MonitorNames } from './names.ts';

/** First of the identities that mean something on one node only. */
const LOCAL_IDENTITIES = 1 << 24;

/** How long lists of pods and clusters are used before they are made anew. */
const FRESH_MS = 1000;

/** What names are made of. */
export interface NameSources {
  readonly node: string;
  readonly max: MaxConnectedClusters;
  readonly engine: Pick<Engine, 'labelsOf' | 'serviceOf'>;
  readonly records: () => readonly EndpointRecord[];
  /** Names of clusters by their ids. */
  readonly clusters: () => ReadonlyMap<number, string>;
  readonly interfaceName: (ifindex: number) => string | undefined;
  readonly clock: Clock;
}

/** Names that follow the tables within a second. */
export function createAgentNames(sources: NameSources): MonitorNames {
  const { engine, max, clock } = sources;
  const fresh = <T>(make: () => T): (() => T) => {
    let made: { readonly value: T; readonly at: number } | undefined;
    return () => {
      const now = clock.monotonic();
      if (made === undefined || now - made.at >= FRESH_MS) made = { value: make(), at: now };
      return made.value;
    };
  };
  const clusters = fresh(sources.clusters);
  const pods = fresh(() => indexPods(sources.records()));
  return {
    node: sources.node,
    labelsOf: (identity) =>
      engine.labelsOf(identity)?.map(({ source, key, value }) => `${source}:${key}=${value}`),
    clusterOf(identity) {
      // Above are those that a node gives to CIDRs.
      if (identity < MINIMUM_ALLOCATED_IDENTITY || identity >= LOCAL_IDENTITIES) return undefined;
      const id = clusterIdOfIdentity(parseNumericIdentity(identity), max);
      return clusters().get(id) ?? `id ${id}`;
    },
    clusterName: (clusterId) => clusters().get(clusterId),
    podOfEndpoint: (endpointId) => pods().byEndpoint.get(endpointId),
    podOfAddress: (address) => pods().byAddress.get(address),
    endpointOfInterface: (ifindex) => pods().byInterface.get(ifindex),
    interfaceName: sources.interfaceName,
    serviceOf: (frontend) => engine.serviceOf(frontend),
  };
}

function indexPods(records: readonly EndpointRecord[]) {
  const byEndpoint = new Map<number, string>([[HOST_ENDPOINT_ID, 'host']]);
  const byAddress = new Map<string, string>();
  const byInterface = new Map<number, number>();
  for (const record of records) {
    byInterface.set(record.ifindex, record.endpointId);
    if (record.podName === '') continue;
    const pod = `${record.podNamespace}/${record.podName}`;
    byEndpoint.set(record.endpointId, pod);
    for (const address of record.addresses) byAddress.set(address, pod);
  }
  return { byEndpoint, byAddress, byInterface };
}
