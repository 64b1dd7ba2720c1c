/** A Service with many backends in another cluster, one of which changes: how long until the kernel's maps are right. */
import { createEngine } from '../agent/state/engine.ts';
import { openKernelTables } from '../agent/testing/kernel-tables.ts';
import type { ClusterRef } from '../mesh/remote/cluster-sink.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { createLogger } from '../mesh/runtime/log.ts';
import { parseClusterId, parseClusterName } from '../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../mesh/wire/ip.ts';
import { serviceKey } from '../mesh/wire/keys.ts';
import { PLAIN_TRAFFIC } from '../mesh/wire/local-service.ts';
import { decodeClusterService, encodeClusterService, type PortMap } from '../mesh/wire/service.ts';
import { type BenchContext, median, percentile, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = { backends: 10_000, changes: 200, warmup: 50 };

const PORTS: PortMap = new Map([['http', { protocol: 'TCP', port: 8080 }]]);
const OWN = parseClusterName('alpha');
const PEER: ClusterRef = { name: parseClusterName('beta'), id: parseClusterId(2), own: false };
const ALPHA: ClusterRef = { name: OWN, id: parseClusterId(1), own: true };
const BUDGET_MS = 10;

/** Milliseconds of each change. */
interface Times {
  readonly decode: number[];
  /** From the decoded record until the maps are written. */
  readonly apply: number[];
  readonly whole: number[];
}

/** Runs the benchmark at a hundredth, a tenth and all of `--backends`. Options: see DEFAULTS. */
export async function benchService(context: BenchContext): Promise<void> {
  const sizes = parseSizes(context.args, DEFAULTS);
  for (const part of [100, 10, 1]) {
    const backends = Math.max(2, Math.floor(sizes.backends / part));
    const { times, bytes, cpuMs } = await measure(backends, sizes);
    const whole = rounded(median(times.whole));
    context.emit({
      bench: 'service',
      metric: `one backend of ${backends} changes: value decoded, compared, written to the maps`,
      value: whole,
      unit: 'ms',
      budget: '10 ms or less at 10,000 backends',
      met: whole <= BUDGET_MS,
      conditions: {
        ...sizes,
        valueBytes: bytes,
        decodeMs: rounded(median(times.decode)),
        mergeAndWriteMs: rounded(median(times.apply)),
        p99Ms: rounded(percentile(times.whole, 0.99)),
        cpuMs: rounded(cpuMs),
      },
    });
    context.say(
      `${backends} backends (${bytes} bytes): ${whole} ms, of it decoding ${rounded(median(times.decode))} ms, merging and writing ${rounded(median(times.apply))} ms; p99 ${rounded(percentile(times.whole, 0.99))} ms; CPU ${rounded(cpuMs)} ms`,
    );
  }
}

async function measure(
  count: number,
  sizes: { readonly changes: number; readonly warmup: number },
): Promise<{ times: Times; bytes: number; cpuMs: number }> {
  await using datapath = await openKernelTables();
  const engine = createEngine({
    datapath,
    node: { clusterId: 1, clusterName: OWN, nodeName: 'bench', nodeIps: [] },
    max: 255,
    policyDefaultLocalCluster: false,
    clock: systemClock,
    logger: createLogger('bench', { level: 'warn' }),
  });
  engine.apply(
    ALPHA,
    { kind: 'local-service', name: 'demo/web', value: localService() },
    undefined,
  );
  const addresses = Array.from({ length: count }, (_, index) => addressOf(index));
  const times: Times = { decode: [], apply: [], whole: [] };
  let bytes = 0;
  const step = (change: number, value: Buffer): void => {
    const began = systemClock.monotonic();
    const record = decodeClusterService(value, serviceKey(PEER.name, 'demo', 'web'));
    const decoded = systemClock.monotonic();
    engine.apply(PEER, { kind: 'service', name: 'demo/web', value: record }, undefined);
    engine.flush();
    const ended = systemClock.monotonic();
    if (change < 0) return;
    times.decode.push(decoded - began);
    times.apply.push(ended - decoded);
    times.whole.push(ended - began);
  };
  let cpuMs = 0;
  for (let change = -sizes.warmup; change < sizes.changes; change += 1) {
    // Another backend each time, anywhere in the list, gets an address that none had before.
    addresses[(change * 7919 + 7919 * sizes.warmup) % count] = addressOf(
      count + sizes.warmup + change,
    );
    const value = Buffer.from(recordOf(addresses));
    bytes = value.length;
    const before = process.cpuUsage();
    step(change, value);
    const used = process.cpuUsage(before);
    if (change >= 0) cpuMs += (used.user + used.system) / 1000 / sizes.changes;
  }
  const [row] = datapath.services.rows();
  const wanted = [...addresses].sort().join();
  if (
    row?.backends
      .map(({ address }) => address)
      .sort()
      .join() !== wanted
  ) {
    throw new Error(
      `the kernel has ${row?.backends.length ?? 0} backends that are not the ${count} wanted`,
    );
  }
  return { times, bytes, cpuMs };
}

function addressOf(index: number): IpAddress {
  return parseIpAddress(`10.${2 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`);
}

function localService() {
  return {
    namespace: 'demo',
    name: 'web',
    clusterIps: [parseIpAddress('10.96.0.1')],
    ports: [{ name: 'http', protocol: 'TCP' as const, port: 80 }],
    headless: false,
    global: true,
    shared: true,
    affinity: 'none' as const,
    ...PLAIN_TRAFFIC,
    backends: new Map(),
  };
}

function recordOf(addresses: readonly IpAddress[]): string {
  return encodeClusterService({
    cluster: PEER.name,
    namespace: 'demo',
    name: 'web',
    frontends: new Map([[parseIpAddress('10.97.0.1'), PORTS]]),
    backends: new Map(addresses.map((address) => [address, PORTS])),
    hostnames: undefined,
    zones: undefined,
    labels: {},
    selector: {},
    includeExternal: true,
    shared: true,
    clusterId: PEER.id,
  });
}
