/** ICMP messages that Cilium's policies name by number or name (`pkg/policy/api/icmp.go`). */
import { excerpt } from '../../mesh/wire/wire-error.ts';
import { isAbsent, listAt, recordAt, refuseOthers } from './manifest-field.ts';
import { PolicyError } from './policy-error.ts';
import type { PortMatch } from './rule.ts';

/** IANA numbers of the two protocols. */
const PROTOCOLS = { IPv4: 1, IPv6: 58 } as const;
const RULE_FIELDS = new Set(['fields']);
const FIELDS = new Set(['family', 'type']);

/** Names of types, as IANA's registries have them without blanks. */
const TYPES: Readonly<Record<keyof typeof PROTOCOLS, ReadonlyMap<string, number>>> = {
  IPv4: new Map([
    ['EchoReply', 0],
    ['DestinationUnreachable', 3],
    ['Redirect', 5],
    ['Echo', 8],
    ['EchoRequest', 8],
    ['RouterAdvertisement', 9],
    ['RouterSelection', 10],
    ['TimeExceeded', 11],
    ['ParameterProblem', 12],
    ['Timestamp', 13],
    ['TimestampReply', 14],
    ['Photuris', 40],
    ['ExtendedEchoRequest', 42],
    ['ExtendedEchoReply', 43],
  ]),
  IPv6: new Map([
    ['DestinationUnreachable', 1],
    ['PacketTooBig', 2],
    ['TimeExceeded', 3],
    ['ParameterProblem', 4],
    ['EchoRequest', 128],
    ['EchoReply', 129],
    ['MulticastListenerQuery', 130],
    ['MulticastListenerReport', 131],
    ['MulticastListenerDone', 132],
    ['RouterSolicitation', 133],
    ['RouterAdvertisement', 134],
    ['NeighborSolicitation', 135],
    ['NeighborAdvertisement', 136],
    ['RedirectMessage', 137],
    ['RouterRenumbering', 138],
    ['ICMPNodeInformationQuery', 139],
    ['ICMPNodeInformationResponse', 140],
    ['InverseNeighborDiscoverySolicitation', 141],
    ['InverseNeighborDiscoveryAdvertisement', 142],
    ['HomeAgentAddressDiscoveryRequest', 144],
    ['HomeAgentAddressDiscoveryReply', 145],
    ['MobilePrefixSolicitation', 146],
    ['MobilePrefixAdvertisement', 147],
    ['DuplicateAddressRequestCodeSuffix', 157],
    ['DuplicateAddressConfirmationCodeSuffix', 158],
    ['ExtendedEchoRequest', 160],
    ['ExtendedEchoReply', 161],
  ]),
};

/** Parses a rule's `icmps`. Throws PolicyError. */
export function parseIcmps(value: unknown, path: string): PortMatch[] {
  return listAt(value, path).flatMap((item, index) => {
    const at = `${path}[${index}]`;
    const object = recordAt(item, at);
    refuseOthers(object, RULE_FIELDS, at);
    return listAt(object.fields, `${at}.fields`).map((field, number) =>
      parseField(field, `${at}.fields[${number}]`),
    );
  });
}

function parseField(value: unknown, path: string): PortMatch {
  const object = recordAt(value, path);
  refuseOthers(object, FIELDS, path);
  const family = isAbsent(object.family) || object.family === '' ? 'IPv4' : object.family;
  if (family !== 'IPv4' && family !== 'IPv6') {
    throw new PolicyError(
      'invalid',
      `${path}.family`,
      `is ${excerpt(family)}: expected IPv4 or IPv6`,
    );
  }
  const type = typeOf(object.type, family);
  if (type === undefined) {
    throw new PolicyError(
      'invalid',
      `${path}.type`,
      `is ${excerpt(object.type)}: expected 0 to 255 or the name of a type of ${family}, such as EchoRequest`,
    );
  }
  return { kind: 'block', protocol: PROTOCOLS[family], port: type, portPrefixBits: 16 };
}

function typeOf(value: unknown, family: keyof typeof PROTOCOLS): number | undefined {
  if (typeof value === 'string' && !/^(0|[1-9]\d{0,2})$/.test(value))
    return TYPES[family].get(value);
  if (typeof value !== 'number' && typeof value !== 'string') return undefined;
  const type = Number(value);
  return Number.isInteger(type) && type >= 0 && type <= 255 ? type : undefined;
}
