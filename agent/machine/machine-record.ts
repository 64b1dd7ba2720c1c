/** Who a machine is: `machine.json`, written once by joining. Its presence means that the machine has joined. */

import { isIP } from 'node:net';
import { join } from 'node:path';
import { z } from 'zod';
import { type HostPort, parseHostPort } from '../../mesh/runtime/option-parsers.ts';
import {
  type ClusterId,
  type ClusterName,
  type MaxConnectedClusters,
  parseClusterId,
  parseClusterName,
  parseMaxConnectedClusters,
} from '../../mesh/wire/ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  parseIpAddress,
  parseIpPrefix,
} from '../../mesh/wire/ip.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import { MACHINE_FILES, readMachineFile, writeMachineFile } from './machine-files.ts';

const SCHEMA = 1;

/** A machine that has joined. */
export interface MachineRecord {
  readonly name: string;
  readonly clusterName: ClusterName;
  readonly clusterId: ClusterId;
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** As the token said; changed since by the cluster's side alone. */
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly addresses: readonly IpAddress[];
  /** A person chose the addresses: the agent does not take others when they go. */
  readonly hasFixedAddresses: boolean;
  /** Sessions and renewals, `host:port`, in the order of preference. */
  readonly registries: readonly HostPort[];
  readonly etcdEndpoints: readonly string[];
  /** Name that the servers' certificates bear. */
  readonly serverName: string;
  readonly tunnelPort: number;
  readonly podNetworks: readonly IpPrefix[];
  /** Further flags that the agent is started with. */
  readonly agentFlags: readonly string[];
  /** RFC 3339. */
  readonly joinedAt: string;
}

const recordSchema = z.object({
  schema: z.number(),
  name: z.string().min(1),
  cluster: z.object({
    name: z.string().transform(parseClusterName),
    id: z.number(),
    maxConnectedClusters: z.number().transform(parseMaxConnectedClusters),
  }),
  namespace: z.string(),
  labels: z.record(z.string(), z.string()),
  addresses: z.array(z.string().transform(parseIpAddress)),
  hasFixedAddresses: z.boolean(),
  registries: z.array(z.string().transform(parseHostPort)).min(1),
  etcdEndpoints: z.array(z.string()).min(1),
  serverName: z.string().min(1),
  tunnelPort: z.number().int(),
  podNetworks: z.array(z.string().transform(parseIpPrefix)),
  agentFlags: z.array(z.string()),
  joinedAt: z.string(),
});

/** Reads it; undefined: the machine has not joined. Throws MachineError `state` for a file that is not ours or is damaged. */
export function readMachineRecord(folder: string): MachineRecord | undefined {
  const text = readMachineFile(folder, MACHINE_FILES.machine);
  if (text === undefined) return undefined;
  const path = join(folder, MACHINE_FILES.machine);
  try {
    const { schema, cluster, ...fields } = recordSchema.parse(JSON.parse(text));
    if (schema !== SCHEMA) {
      throw new Error(
        `its schema is ${schema}, expected ${SCHEMA}: another version has written it`,
      );
    }
    return {
      ...fields,
      clusterName: cluster.name,
      clusterId: parseClusterId(cluster.id, cluster.maxConnectedClusters),
      maxConnectedClusters: cluster.maxConnectedClusters,
    };
  } catch (cause) {
    throw new MachineError(
      'state',
      `cannot use ${path}: ${reasonOf(cause).split('\n')[0]}; if this machine shall join anew, run clustermesh vm leave first`,
      { cause },
    );
  }
}

/** Writes it. Throws MachineError `disk`. */
export function writeMachineRecord(folder: string, record: MachineRecord): void {
  const { clusterName, clusterId, maxConnectedClusters, registries, ...fields } = record;
  const json = {
    schema: SCHEMA,
    cluster: { name: clusterName, id: clusterId, maxConnectedClusters },
    registries: registries.map(({ host, port }) =>
      isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`,
    ),
    ...fields,
  };
  writeMachineFile(folder, MACHINE_FILES.machine, `${JSON.stringify(json, null, 2)}\n`);
}
