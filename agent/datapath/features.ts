/**
 * What the datapath asks of the kernel: one table, each row probed on the machine itself, since distributions add to their
 * kernels what a version number does not tell. The smallest release that has everything needed is Linux 5.10.
 */
import { existsSync } from 'node:fs';
import { ATTACH_TYPES, MAP_TYPES, PROGRAM_TYPES } from './bpf.ts';
import {
  hasBatches,
  hasCgroupAttachType,
  hasCgroupLinks,
  hasHelper,
  hasMapType,
  hasProgramType,
  hasTcx,
} from './features-probe.ts';
import { ALL_SWITCHES, type KernelSwitches } from './kernel-switches.ts';

/** A row: what it is, and what is lost without it; undefined: without it there is no datapath. */
interface FeatureRow {
  readonly name: string;
  /** First release of Linux that has it. */
  readonly since: string;
  readonly lost: string | undefined;
  probe(): boolean;
}

/** A feature, and whether this kernel has it. */
export interface Feature {
  readonly name: string;
  readonly since: string;
  readonly isNeeded: boolean;
  readonly isFound: boolean;
  /** What is lost without it. */
  readonly lost: string;
}

const NO_DATAPATH = 'no datapath';
const { tc, cgroupSockAddr } = PROGRAM_TYPES;

/** Numbers of helpers (`enum bpf_func_id`) that programs call, by the type of the program. */
export const NEEDED_HELPERS: readonly (readonly [number, string, string, readonly number[]])[] = [
  [1, 'map_lookup_elem', '3.18', [tc, cgroupSockAddr]],
  [2, 'map_update_elem', '3.18', [tc, cgroupSockAddr]],
  [3, 'map_delete_elem', '3.18', [tc, cgroupSockAddr]],
  [5, 'ktime_get_ns', '4.1', [tc, cgroupSockAddr]],
  [7, 'get_prandom_u32', '4.1', [tc, cgroupSockAddr]],
  [9, 'skb_store_bytes', '4.1', [tc]],
  [10, 'l3_csum_replace', '4.1', [tc]],
  [11, 'l4_csum_replace', '4.1', [tc]],
  [19, 'skb_vlan_pop', '4.3', [tc]],
  [20, 'skb_get_tunnel_key', '4.3', [tc]],
  [21, 'skb_set_tunnel_key', '4.3', [tc]],
  [23, 'redirect', '4.4', [tc]],
  [26, 'skb_load_bytes', '4.5', [tc]],
  [28, 'csum_diff', '4.6', [tc]],
  [32, 'skb_change_type', '4.8', [tc]],
  [38, 'skb_change_tail', '4.9', [tc]],
  [39, 'skb_pull_data', '4.9', [tc]],
  [46, 'get_socket_cookie', '4.18', [cgroupSockAddr]],
  [50, 'skb_adjust_room', '4.13', [tc]],
  [69, 'fib_lookup', '4.18', [tc]],
  [122, 'get_netns_cookie', '5.7', [cgroupSockAddr]],
  [131, 'ringbuf_reserve', '5.8', [tc, cgroupSockAddr]],
  [132, 'ringbuf_submit', '5.8', [tc, cgroupSockAddr]],
  [152, 'redirect_neigh', '5.10', [tc]],
  [155, 'redirect_peer', '5.10', [tc]],
];

/** Helpers behind a switch of `bpf/lib/kernel.h`. */
export const OPTIONAL_HELPERS = { coarseClock: 160, setRetval: 187 } as const;

const MAPS = [
  ['array', MAP_TYPES.array, '3.19'],
  ['hash', MAP_TYPES.hash, '3.19'],
  ['per-CPU array', MAP_TYPES.perCpuArray, '4.6'],
  ['LRU hash', MAP_TYPES.lruHash, '4.10'],
  ['prefix trie', MAP_TYPES.prefixTrie, '4.11'],
  ['ring buffer', MAP_TYPES.ringBuffer, '5.8'],
] as const;

const ROWS: readonly FeatureRow[] = [
  needed('programs on interfaces (tc)', '4.1', () => hasProgramType(tc)),
  needed('programs on socket calls', '4.17', () => hasProgramType(cgroupSockAddr)),
  needed('links to cgroups', '5.7', hasCgroupLinks),
  needed('hook getpeername', '5.8', () => hasCgroupAttachType(ATTACH_TYPES.cgroupInet4Getpeername)),
  ...MAPS.map(([name, type, since]) => needed(`map ${name}`, since, () => hasMapType(type))),
  ...NEEDED_HELPERS.map(([id, name, since, types]) =>
    needed(`helper ${name}`, since, () => types.every((type) => hasHelper(type, id))),
  ),
  needed('type information', '4.18', () => existsSync('/sys/kernel/btf/vmlinux')),
  {
    name: 'links to interfaces (tcx)',
    since: '6.6',
    lost: 'programs are attached by filters of the clsact qdisc, which "tc qdisc del" removes (they come back within seconds)',
    probe: hasTcx,
  },
  {
    name: 'helper set_retval',
    since: '5.18',
    lost: 'a connect to a service without backends fails with EPERM instead of ECONNREFUSED',
    probe: () => hasHelper(cgroupSockAddr, OPTIONAL_HELPERS.setRetval),
  },
  {
    name: 'batches on prefix tries',
    since: '5.13',
    lost: 'addresses and policies are written one by one, about ten times slower',
    probe: () => hasBatches(MAP_TYPES.prefixTrie),
  },
  {
    name: 'helper ktime_get_coarse_ns',
    since: '5.11',
    lost: 'connection tracking reads the exact clock, a few nanoseconds a packet',
    probe: () => hasCoarseClock(),
  },
];

function needed(name: string, since: string, probe: () => boolean): FeatureRow {
  return { name, since, lost: undefined, probe };
}

function hasCoarseClock(): boolean {
  return [tc, cgroupSockAddr].every((type) => hasHelper(type, OPTIONAL_HELPERS.coarseClock));
}

/** Probes every feature: a few milliseconds. Needs the right to load programs. */
export function probeFeatures(): Feature[] {
  return ROWS.map(({ name, since, lost, probe }) => ({
    name,
    since,
    isNeeded: lost === undefined,
    isFound: probe(),
    lost: lost ?? NO_DATAPATH,
  }));
}

/** Only what programs are told of. */
export function probeSwitches(): KernelSwitches {
  return {
    ...ALL_SWITCHES,
    coarseClock: hasCoarseClock(),
    setRetval: hasHelper(cgroupSockAddr, OPTIONAL_HELPERS.setRetval),
    tcx: hasTcx(),
  };
}

/** The table for people. */
export function renderFeatures(features: readonly Feature[], kernelRelease: string): string {
  const rows = features.map(({ name, since, isNeeded, isFound, lost }) => [
    name,
    `Linux ${since}`,
    isNeeded ? 'needed' : 'optional',
    isFound ? 'yes' : 'NO',
    isFound ? '' : lost,
  ]);
  const table = [['FEATURE', 'SINCE', 'FOR US', 'HERE', 'WITHOUT IT'], ...rows];
  const widths = [0, 1, 2, 3].map((column) =>
    Math.max(...table.map((row) => row[column]?.length ?? 0)),
  );
  const lines = table.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  return `kernel ${kernelRelease}\n${lines.join('\n')}\n`;
}
