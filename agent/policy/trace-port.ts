/** Ports and protocols as people write them. */
import type { PortQuestion } from './sources-of-verdict.ts';
import { TraceError } from './trace-error.ts';

/** IANA numbers of the protocols that policies know. */
const PROTOCOLS: Readonly<Record<string, number>> = {
  TCP: 6,
  UDP: 17,
  SCTP: 132,
  ICMP: 1,
  ICMPv6: 58,
};

/** Name of an IANA protocol number; `protocol 47` for one that policies do not know. */
export function protocolName(protocol: number): string {
  const found = Object.entries(PROTOCOLS).find(([, number]) => number === protocol);
  return found?.[0] ?? `protocol ${protocol}`;
}

/** IANA number of a protocol by its name, in any case; undefined for one that policies do not know. */
export function protocolOf(name: string): number | undefined {
  const wanted = name.toLowerCase();
  return Object.entries(PROTOCOLS).find(([known]) => known.toLowerCase() === wanted)?.[1];
}

/**
 * Parses `80`, `80/TCP`, `53/udp`, or the type of an ICMP message, `8/ICMP`. TCP where no protocol is given. Throws
 * TraceError `bad-question`.
 */
export function parsePortQuestion(text: string): PortQuestion {
  const match = /^(\d{1,5})(?:\/([a-zA-Z0-9]+))?$/.exec(text);
  const protocol = protocolOf(match?.[2] ?? 'TCP');
  const port = Number(match?.[1]);
  const highest = protocol === PROTOCOLS.ICMP || protocol === PROTOCOLS.ICMPv6 ? 255 : 65_535;
  if (match === null || protocol === undefined || port > highest) {
    throw new TraceError(
      'bad-question',
      `cannot parse port ${JSON.stringify(text)}: expected NUMBER or NUMBER/PROTOCOL, with one of ${Object.keys(PROTOCOLS).join(', ')}; of ICMP the type of the message`,
    );
  }
  return { protocol, port };
}

/** `80/TCP`. */
export function portText({ protocol, port }: PortQuestion): string {
  return `${port}/${protocolName(protocol)}`;
}
