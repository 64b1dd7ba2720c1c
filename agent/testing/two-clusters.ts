import {
  type PublishedCluster,
  publishCluster,
} from '../../mesh/remote/testing/published-cluster.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { MemoryDatapath } from '../state/memory-datapath.ts';

/** Selector of the pod that policies of tests are about. */
export const SERVER = { matchLabels: { app: 'server' } };

/** Cluster alpha: two nodes, a pod on each; beta: a node and a pod, both with the service `web`. */
export async function publishAlpha(alpha: PublishedCluster): Promise<void> {
  await alpha.config();
  await alpha.node('n1', '192.0.2.1');
  await alpha.node('n2', '192.0.2.2');
  await alpha.identity(257, { app: 'server' });
  await alpha.identity(258, { app: 'client' });
  await alpha.ip('10.1.0.5', { host: '192.0.2.1', local: 257 });
  await alpha.ip('10.1.1.5', { host: '192.0.2.2', local: 258 });
  await alpha.localService('web', {
    backends: new Map([
      [parseIpAddress('10.1.0.5'), new Map([['http', { protocol: 'TCP', port: 8080 }]])],
    ]),
  });
}

/** Cluster beta, with its markers. */
export async function publishBeta(): Promise<PublishedCluster> {
  const beta = publishCluster('beta', 2);
  await beta.config();
  await beta.node('m1', '198.51.100.1');
  await beta.identity(257, { app: 'client' });
  await beta.ip('10.2.0.5', { host: '198.51.100.1', local: 257 });
  await beta.service('web', { '10.2.0.5': 9090 });
  await beta.marked();
  return beta;
}

/** Rows as text, sorted. */
export function ipcacheText(datapath: MemoryDatapath): string[] {
  return datapath.ipcache
    .rows()
    .map((row) => `${row.prefix} ${row.identity} ${row.tunnelEndpoint ?? '-'} ${row.clusterId}`)
    .sort();
}

/** Rows as text, sorted. */
export function backendText(datapath: MemoryDatapath): string[] {
  return datapath.services
    .rows()
    .flatMap(({ backends }) =>
      backends.map(({ address, port, clusterId }) => `${address}:${port}@${clusterId}`),
    )
    .sort();
}

/** Rows as text, sorted. */
export const policyText = (datapath: MemoryDatapath): string[] =>
  datapath.policy
    .rows()
    .map((row) => `${row.endpointId} ${row.identity} ${row.protocol}/${row.port}`)
    .sort();
