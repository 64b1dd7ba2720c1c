import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import { EndpointStoreError } from './endpoint-error.ts';

/** An endpoint as it is kept in the state directory, and as long as its interface lives. */
export interface EndpointRecord {
  /** 1 to 65534, the endpoint's number on this node. */
  readonly endpointId: number;
  /** Names the attachment together with `ifName`, as the container runtime does. */
  readonly containerId: string;
  readonly ifName: string;
  /** Name of the CNI network configuration that made it; GC speaks of one network only. */
  readonly network: string;
  readonly netns: string;
  readonly addresses: readonly IpAddress[];
  readonly hostInterface: string;
  readonly ifindex: number;
  /** MAC of the interface inside the container. */
  readonly mac: string;
  /** Of the pod, as the runtime said; empty when it did not. */
  readonly podNamespace: string;
  readonly podName: string;
  /**
   * Who told of it: the container runtime by CNI ADD, or nobody, and it was found by its addresses; then `containerId` and
   * `network` are empty until the runtime speaks of it. Absent in files of earlier versions, which knew the runtime only.
   */
  readonly origin: 'runtime' | 'discovered';
}

const SCHEMA = 1;

/** Encodes a record for its file. */
export function encodeRecord(record: EndpointRecord): string {
  return `${JSON.stringify({ schema: SCHEMA, ...record }, null, 2)}\n`;
}

/** Decodes a file's content. Throws EndpointStoreError naming file and field. */
export function decodeRecord(content: string, file: string): EndpointRecord {
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch (cause) {
    throw new EndpointStoreError(`cannot read ${file}: it is not JSON`, { cause });
  }
  if (typeof value !== 'object' || value === null) {
    throw new EndpointStoreError(`cannot read ${file}: expected an object`);
  }
  const object = value as Readonly<Record<string, unknown>>;
  if (object.schema !== SCHEMA) {
    throw new EndpointStoreError(
      `cannot read ${file}: schema ${String(object.schema)}, expected ${SCHEMA}: it was written by another version`,
    );
  }
  const text = (field: string): string => {
    const found = object[field];
    if (typeof found === 'string') return found;
    throw new EndpointStoreError(`cannot read ${file}: field ${field} must be a text`);
  };
  const number = (field: string, max: number): number => {
    const found = object[field];
    if (typeof found === 'number' && Number.isInteger(found) && found >= 1 && found <= max) {
      return found;
    }
    throw new EndpointStoreError(`cannot read ${file}: field ${field} must be 1 to ${max}`);
  };
  const { addresses } = object;
  if (!Array.isArray(addresses) || addresses.length === 0) {
    throw new EndpointStoreError(
      `cannot read ${file}: field addresses must be a list of addresses`,
    );
  }
  return {
    endpointId: number('endpointId', HOST_ENDPOINT_ID - 1),
    containerId: text('containerId'),
    ifName: text('ifName'),
    network: text('network'),
    netns: text('netns'),
    addresses: addresses.map((address) => {
      try {
        return parseIpAddress(address);
      } catch (cause) {
        throw new EndpointStoreError(
          `cannot read ${file}: field addresses holds ${String(address)}`,
          { cause },
        );
      }
    }),
    hostInterface: text('hostInterface'),
    ifindex: number('ifindex', 2 ** 31 - 1),
    mac: text('mac'),
    podNamespace: text('podNamespace'),
    podName: text('podName'),
    origin: object.origin === 'discovered' ? 'discovered' : 'runtime',
  };
}
