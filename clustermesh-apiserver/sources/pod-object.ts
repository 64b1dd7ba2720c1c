/** A Pod, cut down to what is used. */
import { z } from 'zod';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { Protocol } from '../../mesh/wire/service.ts';
import { checkObject } from './object-error.ts';
import {
  ipField,
  listOf,
  metadataField,
  type ObjectName,
  portField,
  protocolField,
} from './object-fields.ts';

/** A pod, as far as it can be an endpoint or a backend. */
export interface PodObject extends ObjectName {
  readonly kind: 'Pod';
  readonly labels: Readonly<Record<string, string>>;
  readonly nodeName: string;
  readonly serviceAccount: string;
  readonly hostNetwork: boolean;
  readonly ports: readonly {
    readonly name: string;
    readonly port: number;
    readonly protocol: Protocol;
  }[];
  readonly hostIp: IpAddress | undefined;
  /** None before the pod has an address. */
  readonly ips: readonly IpAddress[];
  readonly ready: boolean;
  /** It has been told to end. */
  readonly terminating: boolean;
  /** Succeeded and failed pods keep their addresses in status but hold them no longer. */
  readonly finished: boolean;
}

const schema = z.object({
  kind: z.literal('Pod'),
  metadata: metadataField.extend({ deletionTimestamp: z.string().nullish() }),
  spec: z
    .object({
      nodeName: z.string().default(''),
      serviceAccountName: z.string().default('default'),
      hostNetwork: z.boolean().default(false),
      containers: listOf(
        z.object({
          ports: listOf(
            z.object({
              name: z.string().default(''),
              containerPort: portField,
              protocol: protocolField,
            }),
          ),
        }),
      ),
    })
    .default({ nodeName: '', serviceAccountName: 'default', hostNetwork: false, containers: [] }),
  status: z
    .object({
      phase: z.string().default('Running'),
      hostIP: ipField.optional(),
      podIP: ipField.optional(),
      podIPs: listOf(z.object({ ip: ipField })),
      conditions: listOf(z.object({ type: z.string(), status: z.string() })),
    })
    .default({ phase: 'Running', podIPs: [], conditions: [] }),
});

/** Parses a Pod. Throws ObjectError naming the field. */
export function parsePodObject(input: unknown): PodObject {
  const { metadata: meta, spec, status } = checkObject(schema, input);
  const listed = status.podIPs.map((entry) => entry.ip);
  const ready = status.conditions.find((condition) => condition.type === 'Ready');
  return {
    kind: 'Pod',
    namespace: meta.namespace ?? 'default',
    name: meta.name,
    labels: meta.labels,
    nodeName: spec.nodeName,
    serviceAccount: spec.serviceAccountName,
    hostNetwork: spec.hostNetwork,
    ports: spec.containers.flatMap((container) =>
      container.ports.map((port) => ({
        name: port.name,
        port: port.containerPort,
        protocol: port.protocol,
      })),
    ),
    hostIp: status.hostIP,
    ips: listed.length > 0 || status.podIP === undefined ? listed : [status.podIP],
    ready: ready === undefined || ready.status === 'True',
    terminating: typeof meta.deletionTimestamp === 'string',
    finished: status.phase === 'Succeeded' || status.phase === 'Failed',
  };
}
