/** Many Services at once: how long until the kernel's maps hold them all, and one change among them. */

import type { Backend, FrontendEntry } from '../agent/datapath/desired.ts';
import { openServicesTable } from '../agent/datapath/ops/services.ts';
import { openTestServiceMaps } from '../agent/datapath/testing/service-maps.ts';
import { type IpAddress, parseIpAddress } from '../mesh/wire/ip.ts';
import { type BenchContext, median, percentile, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = { services: 30_000, backends: 100_000, maglev: 100, changes: 200, warmup: 50 };
const LOAD_BUDGET_MS = 10_000;
const CHANGE_BUDGET_MS = 10;
/** Rows in one call, as the reconciler hands them over. */
const BATCH = 4096;

/** Sizes of a load: `maglev` of the services choose by Maglev, one in five remembers its clients. */
export interface LoadSizes {
  readonly services: number;
  readonly backends: number;
  readonly maglev: number;
  readonly changes: number;
  /** Changes before those that are measured. */
  readonly warmup: number;
}

/** Milliseconds. */
export interface LoadTimes {
  readonly load: number;
  /** Of the load, the longest single call: so long nothing else was done. */
  readonly longestCall: number;
  /** What a process needs that takes over full maps. */
  readonly adopt: number;
  /** Of that, the longest step: between steps other work is done. */
  readonly longestAdopt: number;
  /** Comparison of the kernel with what is wanted: its longest part, between which other work is done. */
  readonly longestAudit: number;
  readonly changes: readonly number[];
}

/** Measures the services table on maps of its own. */
export async function measureServicesLoad(sizes: LoadSizes): Promise<LoadTimes> {
  await using open = await openTestServiceMaps({
    mesh_services: 1_000_000,
    mesh_backends: 500_000,
    mesh_affinity_members: 1_000_000,
    mesh_maglev: 262_144,
  });
  const rows = makeRows(sizes);
  const table = openServicesTable(open.maps);
  let longestCall = 0;
  const began = performance.now();
  for (let start = 0; start < rows.length; start += BATCH) {
    const before = performance.now();
    table.apply({ upserts: rows.slice(start, start + BATCH), deletes: [] });
    longestCall = Math.max(longestCall, performance.now() - before);
  }
  const load = performance.now() - began;
  const changes: number[] = [];
  for (let change = -sizes.warmup; change < sizes.changes; change += 1) {
    const index = (change + sizes.warmup) * 7919 + 13;
    const row = rows[index % rows.length];
    if (row === undefined) continue;
    // Another backend each time, at an address that none had before.
    const fresh = backendOf(sizes.backends + sizes.warmup + change, row.protocol);
    const changed = { ...row, backends: [...row.backends.slice(1), fresh] };
    rows[index % rows.length] = changed;
    const before = performance.now();
    table.apply({ upserts: [changed], deletes: [] });
    if (change >= 0) changes.push(performance.now() - before);
  }
  const longestAudit = longestStep(table.scan?.() ?? []);
  const adopting = performance.now();
  const next = openServicesTable(open.maps);
  const longestAdopt = longestStep(next.takeOver());
  const found = [...(next.scan?.() ?? [])].flat();
  next.apply({ upserts: [], deletes: [] });
  const adopt = performance.now() - adopting;
  const backends = found.reduce((sum, row) => sum + row.backends.length, 0);
  if (found.length !== rows.length || backends !== sizes.backends) {
    throw new Error(
      `the kernel has ${found.length} frontends with ${backends} backends, not ${rows.length} with ${sizes.backends}`,
    );
  }
  return { load, longestCall, adopt, longestAdopt, longestAudit, changes };
}

/** Takes all steps. Returns the milliseconds of the longest. */
function longestStep(steps: Iterable<unknown>): number {
  const iterator = steps[Symbol.iterator]();
  let longest = 0;
  for (;;) {
    const before = performance.now();
    const { done } = iterator.next();
    longest = Math.max(longest, performance.now() - before);
    if (done === true) return longest;
  }
}

function makeRows({ services, backends, maglev }: LoadSizes): FrontendEntry[] {
  const rows: FrontendEntry[] = [];
  for (let index = 0; index < services; index += 1) {
    const protocol = index % 10 === 9 ? 'UDP' : 'TCP';
    const first = Math.floor((index * backends) / services);
    const end = Math.floor(((index + 1) * backends) / services);
    rows.push({
      address: addressOf(96, index),
      port: 80,
      protocol,
      scope: 'internal',
      isExternal: false,
      backends: Array.from({ length: end - first }, (_, at) => backendOf(first + at, protocol)),
      draining: [],
      affinitySeconds: index % 5 === 0 ? 10_800 : 0,
      algorithm: index < maglev ? 'maglev' : 'random',
      service: `demo/web-${index}`,
    });
  }
  return rows;
}

function backendOf(index: number, protocol: Backend['protocol']): Backend {
  return { address: addressOf(16, index), port: 8080, protocol, clusterId: 1 + (index % 8) };
}

function addressOf(second: number, index: number): IpAddress {
  return parseIpAddress(`10.${second + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`);
}

/** Runs the benchmark. Options: see DEFAULTS. */
export async function benchServicesLoad(context: BenchContext): Promise<void> {
  const sizes = parseSizes(context.args, DEFAULTS);
  const times = await measureServicesLoad(sizes);
  const { load, longestCall, adopt, longestAdopt, longestAudit, changes } = times;
  const change = median(changes);
  const name = `${sizes.services} services with ${sizes.backends} backends`;
  const conditions = {
    ...sizes,
    longestCallMs: rounded(longestCall),
    adoptMs: rounded(adopt),
    longestAdoptMs: rounded(longestAdopt),
    longestAuditMs: rounded(longestAudit),
    changeP99Ms: rounded(percentile(changes, 0.99)),
  };
  context.emit({
    bench: 'services-load',
    metric: `${name} written to the maps`,
    value: rounded(load),
    unit: 'ms',
    budget: `less than ${LOAD_BUDGET_MS} ms`,
    met: load < LOAD_BUDGET_MS,
    conditions,
  });
  context.emit({
    bench: 'services-load',
    metric: `one backend changes among ${name}`,
    value: rounded(change),
    unit: 'ms',
    budget: `less than ${CHANGE_BUDGET_MS} ms`,
    met: change < CHANGE_BUDGET_MS,
    conditions,
  });
  context.say(
    `${name}: written in ${rounded(load)} ms (longest call ${rounded(longestCall)} ms), taken over in ${rounded(adopt)} ms (longest step ${rounded(longestAdopt)} ms); one change ${rounded(change)} ms, p99 ${rounded(percentile(changes, 0.99))} ms`,
  );
}
