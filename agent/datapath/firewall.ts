/** The kernel's side of the host as a firewall: whether it is one and until when, what stays open, and where it stands. */
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import {
  DIRECTIONS,
  FIREWALL,
  FIREWALL_KEY,
  protocolName,
  protocolNumber,
  readAddress,
  writeAddress,
} from '../../mesh/wire/maps.ts';
import { lookupElement, updateElement } from './bpf.ts';
import { isFirewall, writeFirewall } from './config.ts';
import { type FirewallDevices, findFirewallDevices } from './devices.ts';
import { createRowMap, type RowCodec, throwFirst } from './map.ts';
import type { OpenMaps } from './object.ts';

/** A call that no policy of the host denies. */
export interface FirewallCall {
  /** The other side; undefined: anybody. */
  readonly peer: IpAddress | undefined;
  /** Of the side that is called. */
  readonly port: number;
  readonly protocol: 'TCP' | 'UDP';
  readonly direction: (typeof DIRECTIONS)[number];
}

/** Whether the host is a firewall. `untilNs`: of CLOCK_MONOTONIC, from when on it is none whatever becomes of the agent. */
export type FirewallMode =
  | { readonly kind: 'off' }
  | { readonly kind: 'on'; readonly untilNs?: bigint | undefined };

/** The host as a firewall, in the kernel. */
export interface DatapathFirewall {
  /** As the kernel has it now. */
  mode(): FirewallMode;
  /** Whether an earlier process ended without ending a trial, that is, left an end to it. */
  readonly hadTrial: boolean;
  /** Replaces what stays open. Throws DatapathError. */
  setOpen(calls: readonly FirewallCall[]): void;
  /** Puts programs on every device of the host, and keeps them there until `switchOff`. Throws DatapathError. */
  follow(signal?: AbortSignal): Promise<FirewallDevices>;
  /** Begins to judge, or says until when. `follow` and `setOpen` come first. */
  switchOn(untilNs?: bigint): void;
  /** Ends it at once, and takes programs away where nobody else wants them. */
  switchOff(): void;
}

/** What the firewall works on. */
export interface FirewallParts {
  readonly maps: OpenMaps;
  readonly tunnelDevice: string;
  /** Host sides of endpoints' veths, which have programs of their own. */
  readonly endpointInterfaces: () => readonly string[];
  /** Puts programs on these devices of the host, besides those that have them for other reasons, and nowhere else. */
  readonly attach: (devices: readonly string[]) => void;
}

/**
 * Opens it over open maps. What stays open is `confirmed`'s, where the host is a firewall for good; else it is none from now
 * on, whatever an earlier process has left.
 */
export function openFirewall(
  parts: FirewallParts,
  confirmed: { readonly open: readonly FirewallCall[] } | undefined,
): DatapathFirewall {
  const { maps, tunnelDevice } = parts;
  const config = maps.get('mesh_config');
  const state = maps.get('mesh_firewall');
  const calls = createRowMap(maps.get('mesh_firewall_open'), callCodec);

  const readUntil = (): bigint => {
    const value = Buffer.alloc(FIREWALL.size);
    lookupElement(state.fd, Buffer.alloc(4), value);
    return value.readBigUInt64LE(FIREWALL.fields.untilNs);
  };
  const writeUntil = (untilNs: bigint): void => {
    const value = Buffer.alloc(FIREWALL.size);
    value.writeBigUInt64LE(untilNs, FIREWALL.fields.untilNs);
    updateElement(state.fd, Buffer.alloc(4), value);
  };
  const setOpen = (wanted: readonly FirewallCall[]): void => {
    const keys = new Set(wanted.map(keyOf));
    throwFirst([
      ...calls.upsert(wanted),
      ...calls.remove(calls.rows().filter((row) => !keys.has(keyOf(row)))),
    ]);
  };
  const switchOn = (untilNs = 0n): void => {
    writeUntil(untilNs);
    writeFirewall(config, true);
  };
  const switchOff = (): void => {
    writeFirewall(config, false);
    writeUntil(0n);
  };

  const hadTrial = readUntil() !== 0n;
  if (confirmed === undefined) switchOff();
  else {
    setOpen(confirmed.open);
    switchOn();
  }
  return {
    hadTrial,
    setOpen,
    switchOn,
    mode() {
      const untilNs = readUntil();
      if (!isFirewall(config)) return { kind: 'off' };
      return { kind: 'on', untilNs: untilNs === 0n ? undefined : untilNs };
    },
    switchOff() {
      switchOff();
      parts.attach([]);
    },
    async follow(signal) {
      const found = await findFirewallDevices(
        [tunnelDevice, ...parts.endpointInterfaces()],
        signal,
      );
      parts.attach(found.judged);
      return found;
    },
  };
}

function keyOf({ peer, port, protocol, direction }: FirewallCall): string {
  return [direction, protocol, port, peer ?? ''].join(' ');
}

const ANYBODY = parseIpAddress('::');

const callCodec: RowCodec<FirewallCall, FirewallCall> = {
  keySize: FIREWALL_KEY.size,
  valueSize: 4,
  writeKey(view, offset, { peer = ANYBODY, port, protocol, direction }) {
    const { fields } = FIREWALL_KEY;
    writeAddress(view, offset + fields.peer, peer);
    view.setUint16(offset + fields.port, port);
    view.setUint8(offset + fields.protocol, protocolNumber(protocol));
    view.setUint8(offset + fields.direction, DIRECTIONS.indexOf(direction));
  },
  writeValue: (view, offset) => view.setUint32(offset, 1, true),
  readRow(keys, offset) {
    const { fields } = FIREWALL_KEY;
    const peer = readAddress(keys, offset + fields.peer);
    return {
      peer: peer === ANYBODY ? undefined : peer,
      port: keys.getUint16(offset + fields.port),
      protocol: protocolName(keys.getUint8(offset + fields.protocol)) === 'TCP' ? 'TCP' : 'UDP',
      direction: DIRECTIONS[keys.getUint8(offset + fields.direction)] ?? 'ingress',
    };
  },
  describe: (row) => `open call ${keyOf(row)}`,
};
