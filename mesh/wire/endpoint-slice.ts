/**
 * A slice of a Service's endpoints (`pkg/clustermesh/types/endpointslice`, from Cilium 1.20 on): protobuf, compressed
 * with Zstandard. We mirror and show these; we do not publish them yet, so there is no encoder.
 */
import { type ClusterName, parseClusterName } from './ids.ts';
import { type IpAddress, parseIpAddress } from './ip.ts';
import {
  checkSize,
  type FieldPath,
  failField,
  MAX_VALUE_BYTES,
  parseField,
  readRequiredString,
  sortedRecord,
} from './json.ts';
import { openProtobufMessage, ProtobufError, type ProtobufMessage } from './protobuf-message.ts';
import { WireError } from './wire-error.ts';
import { decompressZstd, ZstdError } from './zstd.ts';

/** Largest content of a slice, in bytes; Cilium's reader has the same bound. */
export const MAX_SLICE_BYTES = 16 * 1024 * 1024;

/** An endpoint; undefined is what the writer did not say. */
export interface SliceEndpoint {
  readonly addresses: readonly IpAddress[];
  readonly conditions: {
    readonly ready: boolean | undefined;
    readonly serving: boolean | undefined;
    readonly terminating: boolean | undefined;
  };
  readonly hostname: string | undefined;
  readonly deprecatedTopology: Readonly<Record<string, string>>;
  readonly nodeName: string | undefined;
  readonly zone: string | undefined;
  /** Zones that the endpoint is hinted for; undefined when there are no hints. */
  readonly forZones: readonly string[] | undefined;
}

/** A port of every endpoint of the slice. */
export interface SlicePort {
  readonly name: string | undefined;
  readonly protocol: string | undefined;
  readonly port: number | undefined;
  readonly appProtocol: string | undefined;
}

/** A slice of endpoints. */
export interface EndpointSlice {
  readonly cluster: ClusterName;
  readonly clusterId: number;
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly addressType: 'IPv4' | 'IPv6';
  readonly endpoints: readonly SliceEndpoint[];
  readonly ports: readonly SlicePort[];
}

/** Endpoints, ports, labels and the like of one slice together. Kubernetes allows 1,000 endpoints and 100 ports. */
const MAX_ITEMS = 50_000;

/** Decodes a slice. Throws WireError naming key and field, for whatever Cilium would refuse as well. */
export function decodeEndpointSlice(value: Buffer, key: string): EndpointSlice {
  checkSize(value, key, MAX_VALUE_BYTES);
  const content = decompress(value, key);
  try {
    return readSlice(openProtobufMessage(content, MAX_ITEMS), key);
  } catch (cause) {
    if (!(cause instanceof ProtobufError)) throw cause;
    const code = cause.code === 'too-many' ? 'too-large' : 'bad-value';
    throw new WireError(code, `cannot parse ${key}: not a slice in protobuf (${cause.message})`, {
      key,
      cause,
    });
  }
}

function decompress(value: Buffer, key: string): Buffer {
  try {
    return decompressZstd(value, MAX_SLICE_BYTES);
  } catch (cause) {
    if (!(cause instanceof ZstdError)) throw cause;
    const code = cause.code === 'too-large' ? 'too-large' : 'bad-value';
    throw new WireError(code, `cannot parse ${key}: not Zstandard (${cause.message})`, {
      key,
      cause,
    });
  }
}

function readSlice(message: ProtobufMessage, key: string): EndpointSlice {
  const at = (field: string): FieldPath => ({ key, field });
  let [cluster, namespace, name, addressType] = ['', '', '', ''];
  let clusterId = 0;
  const labels: (readonly [string, string])[] = [];
  const annotations: (readonly [string, string])[] = [];
  const found: FoundEndpoint[] = [];
  const ports: SlicePort[] = [];
  while (message.next()) {
    if (message.field === 1) cluster = message.text();
    else if (message.field === 2) clusterId = message.uint32();
    else if (message.field === 3) namespace = message.text();
    else if (message.field === 4) name = message.text();
    else if (message.field === 5) labels.push(message.entry());
    else if (message.field === 6) annotations.push(message.entry());
    else if (message.field === 7) addressType = message.text();
    else if (message.field === 8) found.push(readEndpoint(message.message()));
    else if (message.field === 9) ports.push(readPort(message.message()));
  }
  if (addressType !== 'IPv4' && addressType !== 'IPv6') {
    failField(at('addressType'), addressType, 'IPv4 or IPv6');
  }
  const family = addressType === 'IPv4' ? 4 : 6;
  return {
    cluster: parseField(at('cluster'), cluster, parseClusterName),
    clusterId,
    namespace: readRequiredString(at('namespace'), namespace, 'a name'),
    name: readRequiredString(at('name'), name, 'a name'),
    labels: sortedRecord(labels),
    annotations: sortedRecord(annotations),
    addressType,
    endpoints: found.map((endpoint, index) => ({
      ...endpoint,
      addresses: endpoint.addresses.map((text, item) =>
        readAddress(at(`endpoints[${index}].addresses[${item}]`), text, family),
      ),
    })),
    ports,
  };
}

type FoundEndpoint = Omit<SliceEndpoint, 'addresses'> & { readonly addresses: readonly string[] };

function readEndpoint(message: ProtobufMessage): FoundEndpoint {
  const addresses: string[] = [];
  const topology: (readonly [string, string])[] = [];
  let conditions: SliceEndpoint['conditions'] = NO_CONDITIONS;
  let hostname: string | undefined;
  let nodeName: string | undefined;
  let zone: string | undefined;
  let forZones: string[] | undefined;
  while (message.next()) {
    if (message.field === 1) addresses.push(message.text());
    else if (message.field === 2) conditions = readConditions(message.message());
    else if (message.field === 3) hostname = message.text();
    else if (message.field === 5) topology.push(message.entry());
    else if (message.field === 6) nodeName = message.text();
    else if (message.field === 7) zone = message.text();
    else if (message.field === 8) {
      forZones ??= [];
      readHints(message.message(), forZones);
    }
  }
  return {
    addresses,
    conditions,
    hostname,
    deprecatedTopology: sortedRecord(topology),
    nodeName,
    zone,
    forZones,
  };
}

const NO_CONDITIONS = { ready: undefined, serving: undefined, terminating: undefined };

function readConditions(message: ProtobufMessage): SliceEndpoint['conditions'] {
  let ready: boolean | undefined;
  let serving: boolean | undefined;
  let terminating: boolean | undefined;
  while (message.next()) {
    if (message.field === 1) ready = message.boolean();
    else if (message.field === 2) serving = message.boolean();
    else if (message.field === 3) terminating = message.boolean();
  }
  return { ready, serving, terminating };
}

function readHints(message: ProtobufMessage, zones: string[]): void {
  while (message.next()) {
    if (message.field !== 1) continue;
    const zone = message.message();
    let name = '';
    while (zone.next()) if (zone.field === 1) name = zone.text();
    zones.push(name);
  }
}

function readPort(message: ProtobufMessage): SlicePort {
  let name: string | undefined;
  let protocol: string | undefined;
  let port: number | undefined;
  let appProtocol: string | undefined;
  while (message.next()) {
    if (message.field === 1) name = message.text();
    else if (message.field === 2) protocol = message.text();
    else if (message.field === 3) port = message.int32();
    else if (message.field === 4) appProtocol = message.text();
  }
  return { name, protocol, port, appProtocol };
}

function readAddress(at: FieldPath, text: string, family: 4 | 6): IpAddress {
  // An IPv4 address mapped into IPv6 is one of IPv6 here, and its canonical text is not.
  const isFamily = text.includes(':') === (family === 6);
  if (!isFamily) failField(at, text, `an IPv${family} address`);
  return parseField(at, text, parseIpAddress);
}
