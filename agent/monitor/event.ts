/** Events as they are told: records with the names that the agent knows. Pure; the JSON lines of `GET /v1/monitor`. */
import { reservedIdentityName } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { FIRST_DROP_REASON } from '../../mesh/wire/maps.ts';
import { adviceSentence, reasonName } from './advice.ts';
import type { MonitorNames } from './names.ts';
import { type IcmpSummary, summarizePacket } from './packet.ts';
import type { PacketRecord, ServiceRecord } from './record.ts';

/** One side of a packet or call. Undefined: the packet does not say, or nothing is known. */
export interface Party {
  readonly address: IpAddress | undefined;
  readonly port: number | undefined;
  /** Numeric identity. */
  readonly identity: number | undefined;
  /** Name of a reserved identity, such as `world`. */
  readonly reserved: string | undefined;
  readonly cluster: string | undefined;
  /** `namespace/name`. */
  readonly pod: string | undefined;
  readonly labels: readonly string[] | undefined;
}

interface Told {
  /** RFC 3339, microseconds. */
  readonly time: string;
  readonly node: string;
  /** Name of REASONS. */
  readonly reason: string;
  readonly reasonNumber: number;
  readonly direction: 'ingress' | 'egress';
  readonly protocol: string | undefined;
  readonly source: Party;
  readonly destination: Party;
  /** Why, and what to do; drops, refusals and what audit mode has spared. */
  readonly advice: string | undefined;
}

/** A packet that was dropped, or that went on; `policy-audit`: that went on although policy denies it. */
export interface PacketEvent extends Told {
  readonly kind: PacketRecord['kind'];
  readonly state: PacketRecord['state'];
  readonly interface: string;
  readonly endpoint: { readonly id: number; readonly pod: string | undefined } | undefined;
  /** `IPv4`, `IPv6`, `ARP` or an EtherType. */
  readonly network: string;
  readonly flags: readonly string[] | undefined;
  readonly icmp: IcmpSummary | undefined;
  readonly isLaterFragment: boolean;
  readonly isCutOff: boolean;
  /** Bytes, from the Ethernet header on. */
  readonly length: number;
  /** First bytes, in hexadecimal. */
  readonly packet: string;
}

/** A socket called a service. The destination is the frontend. */
export interface ServiceEvent extends Told {
  readonly kind: 'service';
  readonly service: string | undefined;
  /** Undefined: the call was refused. */
  readonly backend: Party | undefined;
  /** Of the socket, in decimal. */
  readonly cookie: string;
}

/** Why events are missing: the kernel's limit, a full ring, or a listener that does not read. */
export type LossPlace = 'rate-limit' | 'ring' | 'listener';

/** Events that are missing at this place of the stream. */
export interface LostEvent {
  readonly kind: 'lost';
  readonly time: string;
  readonly node: string;
  readonly where: LossPlace;
  /** What they were; undefined: of several kinds. */
  readonly of: TrafficEvent['kind'] | undefined;
  readonly count: number;
}

/** First line of a stream. */
export interface StartEvent {
  readonly kind: 'start';
  readonly time: string;
  readonly node: string;
  readonly traceLevel: string;
  /** How many events the agent remembers while nobody listens; 0: it does not. */
  readonly history: number;
}

/** What a stream consists of. */
export type MonitorEvent = PacketEvent | ServiceEvent | LostEvent | StartEvent;

/** What happened, without what is about the stream itself. */
export type TrafficEvent = PacketEvent | ServiceEvent;

/** Tells a record. `time` is when it happened, in microseconds since 1970. */
export function describeRecord(
  record: PacketRecord | ServiceRecord,
  about: { readonly time: number; readonly names: MonitorNames },
): TrafficEvent {
  return record.kind === 'service' ? describeService(record, about) : describePacket(record, about);
}

function describePacket(
  record: PacketRecord,
  { time, names }: { readonly time: number; readonly names: MonitorNames },
): PacketEvent {
  const packet = summarizePacket(record.packet);
  const endpointId = record.endpointId || names.endpointOfInterface(record.ifindex);
  const party = (side: 'source' | 'destination', identity: number): Party => {
    const address = packet[side];
    return {
      ...identityParty(identity, names),
      address,
      port: packet[`${side}Port`],
      pod: address === undefined ? undefined : names.podOfAddress(address),
    };
  };
  const reason = reasonName(record.reason);
  return {
    kind: record.kind,
    time: formatTime(time),
    node: names.node,
    reason,
    reasonNumber: record.reason,
    direction: record.direction,
    state: record.state,
    interface: names.interfaceName(record.ifindex) ?? `interface ${record.ifindex}`,
    endpoint:
      endpointId === undefined
        ? undefined
        : { id: endpointId, pod: names.podOfEndpoint(endpointId) },
    source: party('source', record.sourceIdentity),
    destination: party('destination', record.destinationIdentity),
    network: packet.network,
    protocol: packet.protocol,
    flags: packet.flags,
    icmp: packet.icmp,
    isLaterFragment: packet.isLaterFragment,
    isCutOff: packet.isCutOff,
    length: record.length,
    advice: record.kind === 'trace' ? undefined : adviceSentence(reason),
    packet: Buffer.from(record.packet).toString('hex'),
  };
}

function describeService(
  record: ServiceRecord,
  { time, names }: { readonly time: number; readonly names: MonitorNames },
): ServiceEvent {
  const { frontend, backend } = record;
  const reason = reasonName(record.reason);
  const nobody = identityParty(0, names);
  return {
    kind: 'service',
    time: formatTime(time),
    node: names.node,
    reason,
    reasonNumber: record.reason,
    direction: record.direction,
    protocol: record.protocol,
    service: names.serviceOf({ ...frontend, protocol: record.protocol }),
    source: { ...nobody, address: undefined, port: undefined, pod: undefined },
    destination: { ...nobody, ...frontend, pod: undefined },
    backend:
      backend === undefined
        ? undefined
        : {
            ...nobody,
            address: backend.address,
            port: backend.port,
            cluster: names.clusterName(backend.clusterId) ?? `id ${backend.clusterId}`,
            pod: names.podOfAddress(backend.address),
          },
    cookie: record.cookie.toString(),
    advice: record.reason >= FIRST_DROP_REASON ? adviceSentence(reason) : undefined,
  };
}

function identityParty(
  identity: number,
  names: MonitorNames,
): Pick<Party, 'identity' | 'reserved' | 'cluster' | 'labels'> {
  if (identity === 0) {
    return { identity: undefined, reserved: undefined, cluster: undefined, labels: undefined };
  }
  return {
    identity,
    reserved: reservedIdentityName(identity),
    cluster: names.clusterOf(identity),
    labels: names.labelsOf(identity),
  };
}

/** RFC 3339 in UTC with microseconds. */
export function formatTime(microseconds: number): string {
  const whole = Math.floor(microseconds / 1000);
  const rest = Math.floor(microseconds - whole * 1000);
  return new Date(whole).toISOString().replace('Z', `${String(rest).padStart(3, '0')}Z`);
}
