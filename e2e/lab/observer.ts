/**
 * A place on the underlay that takes VXLAN packets as plain datagrams: a node as others see it, without a datapath. So a test
 * reads what really is on the wire, identity in the VNI included.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type IpAddress, ipFromBytes, parseIpAddress } from '../../mesh/wire/ip.ts';
import { ipBatch } from './command.ts';
import type { Lab } from './lab.ts';
import { LabError } from './lab-error.ts';
import { type LabProcess, startProcess } from './process.ts';

/** A packet as it came over the underlay. */
export interface TunnelPacket {
  /** VXLAN network identifier: the sender's identity. */
  readonly vni: number;
  /** Underlay address that it came from. */
  readonly outerSource: IpAddress;
  /** Addresses of the packet inside. */
  readonly source: IpAddress;
  readonly destination: IpAddress;
}

/** A listening observer. Disposing ends it; its namespace goes with the lab. */
export interface Observer extends AsyncDisposable {
  readonly address: IpAddress;
  /** Packets so far, oldest first. */
  packets(): TunnelPacket[];
}

const MAIN = fileURLToPath(new URL('./observer/main.js', import.meta.url));
const TUNNEL_PORT = 8472;
const ETHERNET_BYTES = 14;
const VXLAN_BYTES = 8;
const LAST_PART = 250;

/** Puts an observer on the lab's underlay. One a lab. */
export async function openObserver(lab: Lab): Promise<Observer> {
  const netns = `isthmus-${lab.name}-observer`;
  const address = parseIpAddress(`172.31.0.${LAST_PART}`);
  await ipBatch([`netns add ${netns}`], {});
  await ipBatch(
    [
      `link add n${LAST_PART} type veth peer name eth0 netns ${netns}`,
      `link set n${LAST_PART} master br0 up`,
    ],
    { netns: lab.plan.fabric },
  );
  await ipBatch(['link set lo up', `address add ${address}/16 dev eth0`, 'link set eth0 up'], {
    netns,
  });
  const cgroup = join(lab.plan.cgroup, 'observer');
  await mkdir(cgroup);
  const listening: LabProcess = startProcess([process.execPath, MAIN, String(TUNNEL_PORT)], {
    netns,
    cgroup,
    log: join(lab.plan.folder, 'observer.log'),
  });
  await lab.waitFor('the observer to listen', () => listening.output().startsWith('ready'));
  return {
    address,
    packets: () => listening.output().split('\n').slice(1).filter(Boolean).map(parseLine),
    [Symbol.asyncDispose]: () => listening[Symbol.asyncDispose](),
  };
}

/** A line of the observer's process: the sender's address, and the datagram in hex. */
function parseLine(line: string): TunnelPacket {
  const [from = '', hex = ''] = line.split(' ');
  const bytes = Buffer.from(hex, 'hex');
  const flags = bytes[0] ?? 0;
  const version = (bytes[VXLAN_BYTES + ETHERNET_BYTES] ?? 0) >> 4;
  if ((flags & 0x08) === 0 || (version !== 4 && version !== 6)) {
    throw new LabError(
      'command',
      `cannot read a datagram from ${from}: expected VXLAN with IP inside, got ${hex}`,
    );
  }
  const ip = bytes.subarray(VXLAN_BYTES + ETHERNET_BYTES);
  const [start, length] = version === 4 ? [12, 4] : [8, 16];
  return {
    vni: bytes.readUIntBE(4, 3),
    outerSource: parseIpAddress(from),
    source: ipFromBytes(ip.subarray(start, start + length)),
    destination: ipFromBytes(ip.subarray(start + length, start + 2 * length)),
  };
}
