import { parseClusterName, parseMaxConnectedClusters } from '../wire/ids.ts';
import { integerParser } from './option-parsers.ts';
import { defineOptions, OptionsError } from './options.ts';

/** Options that say which cluster a program belongs to: the same for every program. */
export const CLUSTER_OPTIONS = defineOptions({
  clusterName: {
    flag: '--cluster-name NAME',
    env: 'ISTHMUS_CLUSTER_NAME',
    parse: (text: string) => parseClusterName(text),
    required: true,
    help: 'name of this cluster',
  },
  clusterId: {
    flag: '--cluster-id NUMBER',
    env: 'ISTHMUS_CLUSTER_ID',
    parse: integerParser(1, 511),
    required: true,
    help: 'id of this cluster, 1 to 255, or to 511 with --max-connected-clusters=511',
  },
  maxConnectedClusters: {
    flag: '--max-connected-clusters NUMBER',
    env: 'ISTHMUS_MAX_CONNECTED_CLUSTERS',
    default: '255',
    parse: (text: string) => parseMaxConnectedClusters(Number(text)),
    help: 'size of the mesh, 255 or 511; the same in every cluster',
  },
});

/** Throws OptionsError when the id is not one of a mesh of that size. */
export function checkClusterId(values: {
  readonly clusterId: number;
  readonly maxConnectedClusters: number;
}): void {
  const { clusterId, maxConnectedClusters: max } = values;
  if (clusterId <= max) return;
  throw new OptionsError(
    'usage',
    `--cluster-id: ${clusterId} is above --max-connected-clusters=${max}`,
  );
}
