/** Policies of a large mesh on one node: compiled from nothing, and brought up to date when one thing changes. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Datapath, DatapathTable } from '../agent/datapath/desired.ts';
import { createEngine, type Engine } from '../agent/state/engine.ts';
import { createMemoryDatapath } from '../agent/state/memory-datapath.ts';
import { openKernelTables } from '../agent/testing/kernel-tables.ts';
import { type ClusterRef, OWN_KINDS } from '../mesh/remote/cluster-sink.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { createLogger } from '../mesh/runtime/log.ts';
import { parseClusterId, parseClusterName } from '../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../mesh/wire/ip.ts';
import {
  endpointAddress,
  identityOf,
  MAX_CLUSTERS,
  OWN_ID,
  OWN_NAME,
  type PolicySizes,
  plannedIdentities,
  plannedPolicies,
  workloadLabels,
} from './policy-plan.ts';
import { type BenchContext, median, percentile, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = {
  policies: 1000,
  clusters: 250,
  identities: 200,
  endpoints: 100,
  namespaces: 20,
  changes: 300,
  rounds: 5,
  /** 1: rows go into the maps of the kernel, which needs root; 0: nowhere, so that the agent's own work is measured. */
  kernel: 0,
};
const BUDGET_COMPILE_MS = 5000;
const BUDGET_IDENTITY_MS = 5;
const MEBIBYTE = 2 ** 20;

const ALPHA: ClusterRef = {
  name: parseClusterName(OWN_NAME),
  id: parseClusterId(OWN_ID),
  own: true,
};

/** What one round found, in milliseconds. */
interface Round {
  readonly compileMs: number;
  /** CPU time of the whole process meanwhile: unlike the time, it does not grow with what else the machine does. */
  readonly compileCpuMs: number;
  readonly identityCpuMs: number;
  readonly rows: number;
  readonly largest: number;
  readonly identityMs: readonly number[];
  readonly identityGoneMs: readonly number[];
  readonly policyMs: readonly number[];
  readonly residentBytes: number;
  readonly heapBytes: number;
}

/** Runs the benchmark. Options: see DEFAULTS. */
export async function benchPolicy(context: BenchContext): Promise<void> {
  const sizes = parseSizes(context.args, DEFAULTS);
  const rounds: Round[] = [];
  for (let index = 0; index < sizes.rounds; index += 1) {
    context.signal.throwIfAborted();
    rounds.push(await measure(sizes));
    const { compileMs, rows } = rounds.at(-1) ?? { compileMs: 0, rows: 0 };
    context.say(`round ${index + 1}: ${rows} rows compiled in ${rounded(compileMs)} ms`);
  }
  const last = rounds.at(-1);
  if (last === undefined) return;
  const conditions = { ...sizes, rows: last.rows, largestEndpointRows: last.largest };
  const identityCpuMs = rounded(median(rounds.map((round) => round.identityCpuMs)));
  const compile = rounded(median(rounds.map(({ compileMs }) => compileMs)));
  context.emit({
    bench: 'policy',
    metric: 'full compile: policies read, rows of every endpoint written',
    value: compile,
    unit: 'ms',
    budget: '5 s or less',
    met: compile <= BUDGET_COMPILE_MS,
    conditions: {
      ...conditions,
      rounds: rounds.map(({ compileMs }) => rounded(compileMs)),
      cpuMs: rounds.map(({ compileCpuMs }) => rounded(compileCpuMs)),
    },
  });
  const report = (
    metric: string,
    times: readonly number[],
    { budgetMs, ...more }: { readonly budgetMs?: number; readonly cpuMs?: number } = {},
  ): void => {
    const value = rounded(median(times));
    const p99 = rounded(percentile(times, 0.99));
    context.emit({
      bench: 'policy',
      metric,
      value,
      unit: 'ms',
      ...(budgetMs === undefined
        ? {}
        : { budget: `${budgetMs} ms or less, 99 % of them`, met: p99 <= budgetMs }),
      conditions: { ...conditions, p99Ms: p99, maxMs: rounded(Math.max(...times)), ...more },
    });
    context.say(`${metric}: ${value} ms, p99 ${p99} ms`);
  };
  report(
    'one new identity of another cluster',
    rounds.flatMap(({ identityMs }) => identityMs),
    { budgetMs: BUDGET_IDENTITY_MS, cpuMs: identityCpuMs },
  );
  report(
    'one identity gone',
    rounds.flatMap(({ identityGoneMs }) => identityGoneMs),
  );
  report(
    'one policy changed',
    rounds.flatMap(({ policyMs }) => policyMs),
  );
  context.emit({
    bench: 'policy',
    metric: 'resident memory with all of it compiled',
    value: rounded(last.residentBytes / MEBIBYTE),
    unit: 'MiB',
    conditions: { ...conditions, heapMebibytes: rounded(last.heapBytes / MEBIBYTE) },
  });
  context.say(
    `resident ${rounded(last.residentBytes / MEBIBYTE)} MiB, heap of it ${rounded(last.heapBytes / MEBIBYTE)} MiB`,
  );
}

async function measure(sizes: typeof DEFAULTS): Promise<Round> {
  await using datapath = sizes.kernel === 1 ? await openKernelTables() : createBlindDatapath();
  const engine = createEngine({
    datapath,
    node: { clusterId: OWN_ID, clusterName: ALPHA.name, nodeName: 'bench', nodeIps: [] },
    max: MAX_CLUSTERS,
    policyDefaultLocalCluster: true,
    clock: systemClock,
    logger: createLogger('bench', { level: 'error' }),
  });
  addEndpoints(engine, sizes);
  for (const { identity, labels } of plannedIdentities(sizes)) {
    engine.apply(ALPHA, { kind: 'identity', id: identity, value: labels }, undefined);
  }
  engine.flush();

  const policies = [...plannedPolicies(sizes)];
  const began = systemClock.monotonic();
  const cpuBefore = process.cpuUsage();
  for (const value of policies) {
    const name = `${value.namespace}/${value.name}`;
    engine.apply(ALPHA, { kind: 'local-policy', name, value }, undefined);
  }
  engine.setPeers(new Map());
  for (const kind of OWN_KINDS) engine.synced(ALPHA, kind);
  engine.flush();
  const compileMs = systemClock.monotonic() - began;
  const compileCpuMs = cpuMs(cpuBefore);
  const { entries, largest } = engine.status().policyPressure;
  const kept = engine.status().tables.find(({ name }) => name === 'policy')?.desired ?? 0;
  if (entries === 0 || kept !== entries) {
    throw new Error(`${entries} rows are needed, and ${kept} are in the table`);
  }
  const timed = (change: () => void): number => {
    const started = systemClock.monotonic();
    change();
    engine.flush();
    return systemClock.monotonic() - started;
  };
  const identityMs: number[] = [];
  let identityCpuMs = 0;
  const identityGoneMs: number[] = [];
  const policyMs: number[] = [];
  for (let index = 0; index < sizes.changes; index += 1) {
    const cluster = parseClusterId(2 + (index % Math.max(1, sizes.clusters - 1)));
    const id = identityOf(cluster, sizes.identities + index);
    const value = workloadLabels(`c${cluster}`, index % sizes.identities, sizes.namespaces);
    const before = process.cpuUsage();
    identityMs.push(timed(() => engine.apply(ALPHA, { kind: 'identity', id, value }, undefined)));
    identityCpuMs += cpuMs(before) / sizes.changes;
    identityGoneMs.push(
      timed(() => engine.apply(ALPHA, { kind: 'identity', id, value: undefined }, undefined)),
    );
    const policy = policies[index % policies.length];
    const other = policies[(index + 2) % policies.length];
    if (policy === undefined || other === undefined) continue;
    const name = `${policy.namespace}/${policy.name}`;
    const changed = { ...policy, generation: 2, manifest: other.manifest };
    policyMs.push(
      timed(() => engine.apply(ALPHA, { kind: 'local-policy', name, value: changed }, undefined)),
    );
  }
  return {
    compileMs,
    compileCpuMs,
    identityCpuMs,
    rows: entries,
    largest,
    identityMs,
    identityGoneMs,
    policyMs,
    ...memory(),
  };
}

/** User and system time since then, in milliseconds. */
function cpuMs(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** Takes rows and forgets them: what tables in memory would cost is not what is measured. */
function createBlindDatapath(): Datapath {
  const twin = createMemoryDatapath();
  return {
    ...twin,
    policy: blind(twin.policy),
    endpoints: blind(twin.endpoints),
    ipcache: blind(twin.ipcache),
  };
}

function blind<Row extends Key, Key>(table: DatapathTable<Row, Key>): DatapathTable<Row, Key> {
  return { name: table.name, keyOf: table.keyOf, rows: () => [], apply: () => undefined };
}

/** Endpoints of this node, spread over the own cluster's workloads. */
function addEndpoints(engine: Engine, sizes: PolicySizes): void {
  engine.restoreEndpoints([], new Set());
  for (let index = 0; index < sizes.endpoints; index += 1) {
    const address = endpointAddress(index);
    engine.apply(
      ALPHA,
      {
        kind: 'ip',
        prefix: parseIpPrefix(address),
        value: {
          prefix: parseIpPrefix(address),
          isCidr: false,
          hostIp: parseIpAddress('192.0.2.1'),
          identity: identityOf(ALPHA.id, index % sizes.identities),
          encryptionKey: 0,
          metadata: '',
          namespace: undefined,
          podName: undefined,
          serviceAccount: undefined,
          namedPorts: undefined,
        },
      },
      undefined,
    );
    engine.addEndpoint({
      endpointId: index + 1,
      addresses: [address],
      ifindex: index + 10,
      hostInterface: `veth${index}`,
      mac: '02:00:00:00:00:01',
    });
  }
}

/** After a full collection, so that what is garbage does not count. */
function memory(): { residentBytes: number; heapBytes: number } {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  if (typeof collect === 'function') collect();
  const { rss, heapUsed } = process.memoryUsage();
  return { residentBytes: rss, heapBytes: heapUsed };
}
