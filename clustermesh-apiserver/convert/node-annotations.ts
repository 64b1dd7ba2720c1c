/**
 * What a Cilium agent says of its node by annotations (`pkg/annotation`, read by `pkg/k8s.ParseNode`): a cluster that runs
 * Cilium and is published by us loses none of it. A malformed one counts as absent, as it does for Cilium.
 */
import { type IpAddress, ipFamily, parseIpAddress } from '../../mesh/wire/ip.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';

/** What annotations add to a node. */
export interface NodeAnnotations {
  /** Addresses of the node behind the overlay. */
  readonly ciliumInternalIps: readonly IpAddress[];
  readonly ipv4HealthIp: IpAddress | null;
  readonly ipv6HealthIp: IpAddress | null;
  readonly ipv4IngressIp: IpAddress | null;
  readonly ipv6IngressIp: IpAddress | null;
  /** IPsec key index, 255 for WireGuard, 0 for none. */
  readonly encryptionKey: number;
  readonly wireguardPubKey: string;
}

/** Each annotation has a name from before the prefix was settled, too. */
const NAMES = {
  ipv4Host: ['network.cilium.io/ipv4-cilium-host', 'io.cilium.network.ipv4-cilium-host'],
  ipv6Host: ['network.cilium.io/ipv6-cilium-host', 'io.cilium.network.ipv6-cilium-host'],
  ipv4Health: ['network.cilium.io/ipv4-health-ip', 'io.cilium.network.ipv4-health-ip'],
  ipv6Health: ['network.cilium.io/ipv6-health-ip', 'io.cilium.network.ipv6-health-ip'],
  ipv4Ingress: ['network.cilium.io/ipv4-Ingress-ip', 'io.cilium.network.ipv4-Ingress-ip'],
  ipv6Ingress: ['network.cilium.io/ipv6-Ingress-ip', 'io.cilium.network.ipv6-Ingress-ip'],
  encryptionKey: ['network.cilium.io/encryption-key', 'io.cilium.network.encryption-key'],
  wireguardPubKey: ['network.cilium.io/wg-pub-key', 'io.cilium.network.wg-pub-key'],
} as const;

const ENCRYPTION_KEY = /^(0|[1-9]\d{0,2})$/;

/** Reads the annotations of a Node. */
export function readNodeAnnotations(
  annotations: Readonly<Record<string, string>>,
): NodeAnnotations {
  const text = (name: keyof typeof NAMES): string => readText(annotations, name);
  const key = text('encryptionKey');
  return {
    ciliumInternalIps: [readIp(text('ipv4Host'), 4), readIp(text('ipv6Host'), 6)].filter(
      (ip) => ip !== null,
    ),
    ipv4HealthIp: readIp(text('ipv4Health'), 4),
    ipv6HealthIp: readIp(text('ipv6Health'), 6),
    ipv4IngressIp: readIp(text('ipv4Ingress'), 4),
    ipv6IngressIp: readIp(text('ipv6Ingress'), 6),
    encryptionKey: ENCRYPTION_KEY.test(key) && Number(key) <= 255 ? Number(key) : 0,
    wireguardPubKey: text('wireguardPubKey'),
  };
}

/** The WireGuard key of a node, which is an annotation of its CiliumNode as well. */
export function readWireguardPubKey(annotations: Readonly<Record<string, string>>): string {
  return readText(annotations, 'wireguardPubKey');
}

function readText(annotations: Readonly<Record<string, string>>, name: keyof typeof NAMES): string {
  const found = NAMES[name].find((candidate) => Object.hasOwn(annotations, candidate));
  return found === undefined ? '' : (annotations[found] ?? '');
}

function readIp(text: string, family: 4 | 6): IpAddress | null {
  try {
    const ip = parseIpAddress(text);
    return ipFamily(ip) === family ? ip : null;
  } catch (error) {
    if (error instanceof WireError) return null;
    throw error;
  }
}
