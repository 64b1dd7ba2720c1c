/** What a name asks for: the specification of Kubernetes' DNS, and that of the Multi-Cluster Services API. Pure. */
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { PROTOCOLS, type Protocol } from '../../mesh/wire/service.ts';

/** Whose services a name is about: the own cluster's, or those of all clusters together. */
export type Zone = 'cluster' | 'set';

/** A name below one of our zones. */
export type AskedName =
  /** `svc.cluster.local` and what is above it: there, and without records of its own. */
  | { readonly kind: 'zone'; readonly zone: Zone }
  | { readonly kind: 'namespace'; readonly zone: Zone; readonly namespace: string }
  | {
      readonly kind: 'service';
      readonly zone: Zone;
      readonly namespace: string;
      readonly service: string;
    }
  /** `_http._tcp.<service>…`. */
  | {
      readonly kind: 'port';
      readonly zone: Zone;
      readonly namespace: string;
      readonly service: string;
      readonly port: string;
      readonly protocol: Protocol;
    }
  /** `10-1-2-3.<service>…` of a headless service, with the cluster between in the set of clusters. */
  | {
      readonly kind: 'endpoint';
      readonly zone: Zone;
      readonly namespace: string;
      readonly service: string;
      readonly address: IpAddress;
      readonly cluster: string | undefined;
    }
  /** Below one of our zones, and nothing of the kinds that there are. */
  | { readonly kind: 'nothing'; readonly zone: Zone };

/** Domain of the Multi-Cluster Services API; the same everywhere. */
export const CLUSTERSET_DOMAIN = 'clusterset.local';

/** Domains of the zones, without a dot at the end, lower case. */
export type ZoneDomains = Readonly<Record<Zone, string>>;

/** Reads a name; undefined: it is in none of our zones. */
export function readName(name: string, domains: ZoneDomains): AskedName | undefined {
  const asked = name.toLowerCase().replace(/\.$/, '');
  for (const zone of ['cluster', 'set'] as const) {
    const domain = domains[zone];
    if (asked === domain) return { kind: 'zone', zone };
    if (asked.endsWith(`.${domain}`)) {
      return readBelow(asked.slice(0, -domain.length - 1).split('.'), zone);
    }
  }
  return undefined;
}

/** `labels` from the most special one to that before the zone's domain. */
function readBelow(labels: readonly string[], zone: Zone): AskedName {
  const nothing: AskedName = { kind: 'nothing', zone };
  const [svc, namespace, service, ...more] = labels.toReversed();
  if (svc !== 'svc') return nothing;
  if (namespace === undefined) return { kind: 'zone', zone };
  if (service === undefined) return { kind: 'namespace', zone, namespace };
  const named = { zone, namespace, service };
  const [first, second, third] = more;
  if (first === undefined) return { kind: 'service', ...named };
  if (second !== undefined && first.startsWith('_') && third === undefined) {
    const protocol = PROTOCOLS.find((known) => `_${known.toLowerCase()}` === first);
    return protocol === undefined || !second.startsWith('_')
      ? nothing
      : { kind: 'port', ...named, port: second.slice(1), protocol };
  }
  if (zone === 'set' && second !== undefined && third === undefined) {
    const address = readDashed(second);
    return address === undefined
      ? nothing
      : { kind: 'endpoint', ...named, address, cluster: first };
  }
  const address = second === undefined ? readDashed(first) : undefined;
  return address === undefined || zone === 'set'
    ? nothing
    : { kind: 'endpoint', ...named, address, cluster: undefined };
}

/** An address as a label: `10-1-2-3`, `fd00--1`. */
export function dashedAddress(address: IpAddress): string {
  const text = address.replaceAll(/[.:]/g, '-');
  // A label neither begins nor ends with a dash.
  return `${text.startsWith('-') ? '0' : ''}${text}${text.endsWith('-') ? '0' : ''}`;
}

function readDashed(label: string): IpAddress | undefined {
  for (const separator of ['.', ':']) {
    try {
      return parseIpAddress(label.replaceAll('-', separator));
    } catch {
      // The other family, or none.
    }
  }
  return undefined;
}
