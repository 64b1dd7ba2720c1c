/** Ports and ICMP types of the oracle: a list is walked for each question. */

/** Ports of a rule as they stand in a manifest, of Kubernetes (`ports`) and of Cilium (`toPorts[].ports`) alike. */
export interface PortManifest {
  readonly port?: string | number;
  readonly endPort?: number;
  readonly protocol?: string;
}

/** `icmps` of a rule. */
export interface IcmpManifest {
  readonly fields?: readonly { family?: string; type: string | number }[];
}

/** What a packet is. */
export interface OracleFlow {
  /** IANA number. */
  readonly protocol: number;
  /** Destination port, or the type of an ICMP message. */
  readonly port: number;
}

/** Named ports of a pod, as `TCP/8080`. */
export type NamedPorts = Readonly<Record<string, string>>;

const NUMBERS: Readonly<Record<string, number>> = { TCP: 6, UDP: 17, SCTP: 132 };

/** ICMP messages by name, as RFC 792 and RFC 4443 number them. */
const ICMP_TYPES: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  IPv4: {
    EchoReply: 0,
    DestinationUnreachable: 3,
    Redirect: 5,
    Echo: 8,
    EchoRequest: 8,
    RouterAdvertisement: 9,
    TimeExceeded: 11,
    ParameterProblem: 12,
    Timestamp: 13,
    TimestampReply: 14,
  },
  IPv6: {
    DestinationUnreachable: 1,
    PacketTooBig: 2,
    TimeExceeded: 3,
    ParameterProblem: 4,
    EchoRequest: 128,
    EchoReply: 129,
    RouterSolicitation: 133,
    RouterAdvertisement: 134,
    NeighborSolicitation: 135,
    NeighborAdvertisement: 136,
  },
};

/**
 * Whether a flow goes to a port of the manifest. `byDefault` is the protocol of a port that names none: TCP in Kubernetes,
 * any with ports in Cilium. Named ports are those of whoever is the flow's destination.
 */
export function isPort(
  manifest: PortManifest,
  flow: OracleFlow,
  { byDefault, named }: { byDefault: 'TCP' | 'ANY'; named: NamedPorts },
): boolean {
  const protocol = (manifest.protocol ?? byDefault).toUpperCase();
  const protocols = protocol === 'ANY' ? Object.values(NUMBERS) : [NUMBERS[protocol]];
  if (!protocols.includes(flow.protocol)) return false;
  const port = String(manifest.port ?? 0);
  if (!/^\d+$/.test(port)) {
    const [itsProtocol = '', itsNumber] = named[port.toLowerCase()]?.split('/') ?? [];
    return NUMBERS[itsProtocol] === flow.protocol && Number(itsNumber) === flow.port;
  }
  if (Number(port) === 0) return true;
  return flow.port >= Number(port) && flow.port <= Math.max(Number(port), manifest.endPort ?? 0);
}

/** Whether a flow is one of the messages listed. */
export function isIcmp(manifest: IcmpManifest, flow: OracleFlow): boolean {
  return (manifest.fields ?? []).some(({ family = 'IPv4', type }) => {
    const number = /^\d+$/.test(String(type)) ? Number(type) : ICMP_TYPES[family]?.[type];
    return flow.protocol === (family === 'IPv4' ? 1 : 58) && flow.port === number;
  });
}
