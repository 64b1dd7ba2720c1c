/** An address and the identity behind it (`pkg/identity.IPIdentityPair`). Read by the hundred thousand: no schema library here. */
import { encodeMask, readMaskLength } from './cidr-json.ts';
import { type NumericIdentity, parseNumericIdentity } from './ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  makePrefix,
  parseIpAddress,
  splitPrefix,
} from './ip.ts';
import {
  encodeGoJson,
  type FieldPath,
  failField,
  fieldOf,
  parseField,
  parseJsonObject,
  readArray,
  readObject,
  readOptionalString,
  readString,
  readUint,
} from './json.ts';
import { decodeUsualIp } from './usual-ip.ts';

/** A port of a pod that policies may call by name. */
export interface NamedPort {
  readonly name: string;
  readonly port: number;
  readonly protocol: string;
}

/** An address of an endpoint, or a network, with its identity. */
export interface IpIdentity {
  readonly prefix: IpPrefix;
  /** True when the value carried a mask, and then the key ends in `/length`. */
  readonly isCidr: boolean;
  /** Underlay address of the node that the endpoint is on, to which traffic is tunnelled. */
  readonly hostIp: IpAddress | null;
  readonly identity: NumericIdentity;
  readonly encryptionKey: number;
  readonly metadata: string;
  readonly namespace: string | undefined;
  readonly podName: string | undefined;
  readonly serviceAccount: string | undefined;
  readonly namedPorts: readonly NamedPort[] | undefined;
  /** There only in the form of versions after 1.20, which leave an unset mask out, and is kept to write the same again. */
  readonly newForm?: { readonly podUid: string | undefined };
}

/** Encodes an address as Cilium up to 1.20 does, where `Mask` is always there, unless it was read in the newer form. */
export function encodeIpIdentity(record: IpIdentity): string {
  const { address, length } = splitPrefix(record.prefix);
  return encodeGoJson({
    IP: address,
    Mask: record.isCidr
      ? encodeMask(ipFamily(record.prefix), length)
      : record.newForm === undefined
        ? null
        : undefined,
    HostIP: record.hostIp ?? '',
    ID: record.identity,
    Key: record.encryptionKey,
    Metadata: record.metadata,
    K8sNamespace: record.namespace,
    K8sPodName: record.podName,
    K8sPodUID: record.newForm?.podUid,
    K8sServiceAccount: record.serviceAccount,
    NamedPorts: record.namedPorts?.map(({ name, port, protocol }) => ({
      Name: name,
      Port: port,
      Protocol: protocol,
    })),
  });
}

/** Decodes an address; an absent mask (1.21) and a null one are the same. Throws WireError naming key and field. */
export function decodeIpIdentity(value: Buffer | string, key: string): IpIdentity {
  const usual = typeof value === 'string' ? undefined : decodeUsualIp(value);
  return usual ?? decodeAnyIp(value, key);
}

/** The same for every form that JSON allows, and slower. */
export function decodeAnyIp(value: Buffer | string, key: string): IpIdentity {
  const object = parseJsonObject(value, key);
  const at = (field: string): FieldPath => ({ key, field });
  const address = parseField(at('IP'), fieldOf(object, 'IP'), parseIpAddress);
  const mask = fieldOf(object, 'Mask');
  const length =
    mask === null || mask === undefined ? undefined : readMaskLength(at('Mask'), mask, address);
  const prefix = makePrefix(address, length ?? (ipFamily(address) === 4 ? 32 : 128));
  // Cilium's key of such a value would be another one than that of the network.
  if (splitPrefix(prefix).address !== address) {
    failField(
      at('IP'),
      address,
      `${splitPrefix(prefix).address}, the first address of its network`,
    );
  }
  const hostIp = readString(at('HostIP'), fieldOf(object, 'HostIP'));
  const podUid = readOptionalString(at('K8sPodUID'), fieldOf(object, 'K8sPodUID'));
  return {
    prefix,
    isCidr: length !== undefined,
    hostIp: hostIp === '' ? null : parseField(at('HostIP'), hostIp, parseIpAddress),
    identity: parseField(at('ID'), fieldOf(object, 'ID') ?? 0, parseNumericIdentity),
    encryptionKey: readUint(at('Key'), fieldOf(object, 'Key'), 255),
    metadata: readString(at('Metadata'), fieldOf(object, 'Metadata')),
    namespace: readOptionalString(at('K8sNamespace'), fieldOf(object, 'K8sNamespace')),
    podName: readOptionalString(at('K8sPodName'), fieldOf(object, 'K8sPodName')),
    serviceAccount: readOptionalString(
      at('K8sServiceAccount'),
      fieldOf(object, 'K8sServiceAccount'),
    ),
    namedPorts: readNamedPorts(at('NamedPorts'), fieldOf(object, 'NamedPorts')),
    ...(mask === undefined || podUid !== undefined ? { newForm: { podUid } } : {}),
  };
}

/** An empty list is left out on the wire, so it is the same as none. */
function readNamedPorts(at: FieldPath, found: unknown): readonly NamedPort[] | undefined {
  const list = readArray(at, found);
  if (list === undefined || list.length === 0) return undefined;
  return list.map((entry, index) => {
    const field = (name: string): FieldPath => ({
      key: at.key,
      field: `${at.field}[${index}]${name}`,
    });
    const object = readObject(field(''), entry) ?? failField(field(''), entry, 'an object');
    return {
      name: readString(field('.Name'), fieldOf(object, 'Name')),
      port: readUint(field('.Port'), fieldOf(object, 'Port'), 65535),
      protocol: readString(field('.Protocol'), fieldOf(object, 'Protocol')),
    };
  });
}
