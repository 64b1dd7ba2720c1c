/** Network devices by iproute2, in the process's network namespace. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { z } from 'zod';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  makePrefix,
  parseIpAddress,
} from '../../mesh/wire/ip.ts';
import { interfaceIndex } from './bpf.ts';
import { DatapathError } from './datapath-error.ts';
import { findPortHolder, holderText } from './port-holder.ts';

const run = promisify(execFile);

/** Bytes that VXLAN adds to a packet over each family: outer Ethernet is not counted, the inner one is. */
const VXLAN_OVERHEAD = { 4: 50, 6: 70 } as const;
/** Smallest MTU that IPv6 allows on a link. */
const MINIMUM_MTU = 1280;
const LONGEST_NAME = 15;
const SUCCESSOR_SUFFIX = '_new';
const COMMAND_TIMEOUT_MS = 10_000;

const linkSchema = z.looseObject({
  ifname: z.string(),
  link_type: z.string().optional(),
  mtu: z.number(),
  flags: z.array(z.string()).default([]),
  linkinfo: z
    .looseObject({
      info_kind: z.string().optional(),
      info_slave_kind: z.string().optional(),
      info_data: z
        .looseObject({
          port: z.number().optional(),
          external: z.boolean().optional(),
          id: z.number().optional(),
        })
        .optional(),
    })
    .optional(),
  addr_info: z
    .array(z.looseObject({ local: z.string().optional(), prefixlen: z.number().optional() }))
    .default([]),
});

type Link = z.infer<typeof linkSchema>;

/** The device that packets to and from other nodes pass. */
export interface TunnelDevice {
  readonly name: string;
  readonly ifindex: number;
  /** What fits through it: the MTU that endpoints should have at most. */
  readonly mtu: number;
}

/** Whose VXLAN devices are known by their names. */
const DEVICE_OWNERS = [
  [/^flannel[.-]/, 'Flannel'],
  [/^cilium_vxlan$/, 'Cilium'],
  [/^vxlan(-v6)?\.calico$/, 'Calico'],
] as const;

/** What ensureTunnelDevice needs to know; part of DatapathOptions. */
export interface TunnelDeviceOptions {
  readonly tunnelDevice: string;
  readonly tunnelPort: number;
  readonly nodeIps: readonly IpAddress[];
  /** MTU of the network between nodes. Default: that of the interfaces with the node's addresses. */
  readonly underlayMtu?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Makes the VXLAN device in collect-metadata mode, or takes over the one of that name. One device carries IPv4 and IPv6
 * underlays. Throws `port-taken` when another device or program has the UDP port, `device-failed` otherwise.
 */
export async function ensureTunnelDevice(options: TunnelDeviceOptions): Promise<TunnelDevice> {
  const { tunnelDevice: name, tunnelPort: port, signal } = options;
  const links = await listLinks(signal);
  const mtu = tunnelMtu(links, options);
  const existing = links.find((link) => link.ifname === name);
  refuseOtherTunnel(links, options);
  // One of our own name that has the port is taken over, or gives way.
  if (existing?.linkinfo?.info_data?.port !== port) refusePortHolder(name, port);
  if (existing === undefined) {
    await addDevice(name, port, signal);
  } else if (!isOurs(existing, port)) {
    await replaceDevice(existing, port, signal);
  }
  // No address of its own on the device, and no neighbours: it would only look for them in no tunnel.
  const settings = ['mtu', String(mtu), 'addrgenmode', 'none', 'arp', 'off', 'up'];
  await ip(['link', 'set', 'dev', name, ...settings], signal);
  const ifindex = interfaceIndex(name);
  if (ifindex === undefined) {
    throw new DatapathError('device-failed', `cannot find VXLAN device ${name} after making it`, {
      retryable: true,
    });
  }
  return { name, ifindex, mtu };
}

/** Removes the device; one that is not there is no error. */
export async function removeTunnelDevice(name: string, signal?: AbortSignal): Promise<void> {
  if (interfaceIndex(name) === undefined) return;
  await ip(['link', 'delete', 'dev', name], signal);
}

/** Makes the device and brings it up, which is when the kernel takes the port. Leaves nothing behind if that fails. */
async function addDevice(
  name: string,
  port: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const vxlan = ['type', 'vxlan', 'external', 'dstport', String(port), 'nolearning'];
  // Peers may leave the outer checksum out over IPv6 too.
  await ip(['link', 'add', 'name', name, ...vxlan, 'udp6zerocsumrx'], signal);
  try {
    await ip(['link', 'set', 'dev', name, 'addrgenmode', 'none', 'up'], signal);
  } catch (cause) {
    await ip(['link', 'delete', 'dev', name], undefined);
    if (!(cause instanceof DatapathError) || !/already in use/i.test(cause.message)) throw cause;
    throw new DatapathError(
      'port-taken',
      `cannot use UDP port ${port} for ${name}: another program has it (ss -lunp shows which); stop it, or set --tunnel-port to another one, the same in all clusters`,
      { cause },
    );
  }
}

/** Puts a device with another port in place of ours. The old one goes only when the new one has its port. */
async function replaceDevice(
  existing: Link,
  port: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const name = existing.ifname;
  if (existing.linkinfo?.info_kind !== 'vxlan') {
    const kind = existing.linkinfo?.info_kind ?? 'other';
    throw new DatapathError(
      'device-failed',
      `cannot make VXLAN device ${name}: an interface of kind ${kind} has that name; remove it or set --tunnel-device`,
    );
  }
  const successor = `${name.slice(0, LONGEST_NAME - SUCCESSOR_SUFFIX.length)}${SUCCESSOR_SUFFIX}`;
  // Left by a process that died between the steps.
  await removeTunnelDevice(successor, signal);
  await addDevice(successor, port, signal);
  await ip(['link', 'delete', 'dev', name], signal);
  await ip(['link', 'set', 'dev', successor, 'down'], signal);
  await ip(['link', 'set', 'dev', successor, 'name', name], signal);
}

function isOurs(link: Link, port: number): boolean {
  const data = link.linkinfo?.info_data;
  return link.linkinfo?.info_kind === 'vxlan' && data?.external === true && data.port === port;
}

/** Another VXLAN device on our port (Flannel's, Cilium's) would take the packets, or refuse us the port. */
function refuseOtherTunnel(links: readonly Link[], options: TunnelDeviceOptions): void {
  const { tunnelDevice, tunnelPort } = options;
  const other = links.find(
    (link) =>
      link.ifname !== tunnelDevice &&
      link.linkinfo?.info_kind === 'vxlan' &&
      link.linkinfo.info_data?.port === tunnelPort,
  );
  if (other === undefined) return;
  throw new DatapathError(
    'port-taken',
    `cannot use UDP port ${tunnelPort} for ${tunnelDevice}: VXLAN device ${other.ifname}${ownerText(other.ifname)} has it; set --tunnel-port to another one, the same in all clusters, or remove that device`,
  );
}

function ownerText(device: string): string {
  const owner = DEVICE_OWNERS.find(([name]) => name.test(device))?.[1];
  return owner === undefined ? '' : ` of ${owner}`;
}

/** A program on our port, or a device that is listed elsewhere: the kernel would only say that the address is in use. */
function refusePortHolder(name: string, port: number): void {
  const holder = findPortHolder(port);
  if (holder === undefined) return;
  throw new DatapathError(
    'port-taken',
    `cannot use UDP port ${port} for ${name}: ${holderText(holder)} has it; stop it, or set --tunnel-port to another one, the same in all clusters`,
  );
}

/**
 * Interfaces by which clients outside reach the node: those named, else those with its addresses. Throws `bad-option`
 * for one that does not exist or has no Ethernet header, and when there is none.
 */
export async function findNodeDevices(options: {
  readonly nodeIps: readonly IpAddress[];
  readonly devices?: readonly string[] | undefined;
  readonly signal?: AbortSignal | undefined;
}): Promise<readonly string[]> {
  const { nodeIps, devices = [], signal } = options;
  const links = await listLinks(signal);
  const holders = links.filter((link) => nodeIps.some((address) => hasAddress(link, address)));
  const names = devices.length > 0 ? devices : holders.map(({ ifname }) => ifname);
  const found = new Set<string>();
  for (const name of names) {
    const link = links.find(({ ifname }) => ifname === name);
    if (link?.link_type !== 'ether') {
      const problem =
        link === undefined ? 'it does not exist' : `it is of type ${link.link_type}, not Ethernet`;
      throw new DatapathError(
        'bad-option',
        `cannot serve clients outside by interface ${name}: ${problem}; name those by which they come in with --devices`,
      );
    }
    found.add(name);
  }
  return [...found];
}

/** Where a firewall of the host stands. */
export interface FirewallDevices {
  readonly judged: readonly string[];
  /** Those that are up and cannot be judged, with the reason. */
  readonly unjudged: readonly { readonly name: string; readonly reason: string }[];
}

/** What a device does with the packets of those that are a part of it: they are seen again as its own. */
const GATHERS: ReadonlySet<string | undefined> = new Set(['bridge', 'bond', 'team', 'openvswitch']);

/**
 * Interfaces by which packets reach the host or leave it, but for loopback, `others` and those that are a part of another
 * one. Throws `device-failed`.
 */
export async function findFirewallDevices(
  others: readonly string[],
  signal?: AbortSignal,
): Promise<FirewallDevices> {
  const links = (await listLinks(signal)).filter(
    ({ ifname, link_type: type, linkinfo }) =>
      type !== 'loopback' && !others.includes(ifname) && !GATHERS.has(linkinfo?.info_slave_kind),
  );
  return {
    judged: links.filter(({ link_type: type }) => type === 'ether').map(({ ifname }) => ifname),
    unjudged: links
      .filter(({ link_type: type, flags }) => type !== 'ether' && flags.includes('UP'))
      .map(({ ifname, link_type: type }) => ({
        name: ifname,
        reason: `it is of type ${type ?? 'unknown'}, not Ethernet`,
      })),
  };
}

/** MTU of each interface, by its name. Throws `device-failed`. */
export async function interfaceMtus(signal?: AbortSignal): Promise<ReadonlyMap<string, number>> {
  return new Map((await listLinks(signal)).map(({ ifname, mtu }) => [ifname, mtu]));
}

/**
 * Networks that this node is part of: those of its interfaces' addresses, but for `device` and for addresses that are a
 * network of their own. Throws `device-failed`.
 */
export async function ownNetworks(device: string, signal?: AbortSignal): Promise<IpPrefix[]> {
  const links = await listLinks(signal);
  return links
    .filter(({ ifname }) => ifname !== device)
    .flatMap(({ addr_info: addresses }) => addresses)
    .flatMap(({ local, prefixlen }) => {
      if (local === undefined || prefixlen === undefined) return [];
      const address = parseIpAddress(local);
      const isWhole = prefixlen === (ipFamily(address) === 4 ? 32 : 128);
      return isWhole ? [] : [makePrefix(address, prefixlen)];
    });
}

/** The smallest MTU of the interfaces with the node's addresses, less the encapsulation. Throws `bad-option`. */
function tunnelMtu(
  links: readonly Link[],
  { nodeIps, underlayMtu }: Pick<TunnelDeviceOptions, 'nodeIps' | 'underlayMtu'>,
): number {
  const mtus = nodeIps.map((address) => {
    const link = links.find((candidate) => hasAddress(candidate, address));
    if (link === undefined) {
      throw new DatapathError(
        'bad-option',
        `cannot use node address ${address}: no interface of this node has it (ip address shows which do); correct --node-ip`,
      );
    }
    return (underlayMtu ?? link.mtu) - VXLAN_OVERHEAD[ipFamily(address)];
  });
  if (mtus.length === 0) {
    throw new DatapathError(
      'bad-option',
      'cannot make the tunnel device: no node address, set --node-ip',
    );
  }
  return Math.max(MINIMUM_MTU, Math.min(...mtus));
}

function hasAddress(link: Link, address: IpAddress): boolean {
  return link.addr_info.some(
    ({ local }) => local !== undefined && parseIpAddress(local) === address,
  );
}

async function listLinks(signal: AbortSignal | undefined): Promise<Link[]> {
  const text = await ip(['-json', '-details', 'address', 'show'], signal);
  try {
    return z.array(linkSchema).parse(JSON.parse(text));
  } catch (cause) {
    throw new DatapathError(
      'device-failed',
      'cannot read the output of ip address show: it is not as expected',
      {
        cause,
      },
    );
  }
}

async function ip(args: readonly string[], signal: AbortSignal | undefined): Promise<string> {
  try {
    const { stdout } = await run('ip', args, {
      timeout: COMMAND_TIMEOUT_MS,
      ...(signal ? { signal } : {}),
    });
    return stdout;
  } catch (cause) {
    signal?.throwIfAborted();
    throw new DatapathError(
      'device-failed',
      `cannot run "ip ${args.join(' ')}": ${reasonOf(cause)}`,
      {
        retryable: true,
        cause,
      },
    );
  }
}

function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  if ('code' in cause && cause.code === 'ENOENT') {
    return 'iproute2 is missing (Debian: apt-get install iproute2)';
  }
  const stderr = 'stderr' in cause && typeof cause.stderr === 'string' ? cause.stderr.trim() : '';
  return stderr === '' ? cause.message : stderr.replaceAll('\n', '; ');
}
