/**
 * `npm run bench -- vm-sessions`: machines with a session each at one apiserver, by clients in this process. What it costs while
 * nothing happens, and how long it takes until all are back after the apiserver has died and was started again.
 */
import { generateKeyPairSync } from 'node:crypto';
import {
  encodeMachineRecord,
  MACHINES_PREFIX,
} from '../clustermesh-apiserver/registry/machine-record.ts';
import {
  dialMachineStream,
  type MachineStream,
  machineHello,
} from '../clustermesh-apiserver/registry/testing/machine-registry.ts';
import { type OurApiserver, prepareOurApiserver } from '../e2e/peers/our-apiserver.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { type Backoff, createBackoff } from '../mesh/runtime/backoff.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { issueForKey } from '../pki/ca.ts';
import { machineLeaf } from '../pki/names.ts';
import { processUse } from './mesh-lab.ts';
import { type BenchContext, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

const DEFAULTS = { sessions: 2000, idle: 30 };
const BUDGET_MS = 30_000;
const TIMEOUT_MS = 300_000;
/** How agents try again (`agent/registry/session.ts`). */
const AS_AGENTS = { minMs: 500, maxMs: 30_000 };
const LOOK_MS = 50;
const YEAR_MS = 365 * 86_400_000;
const IPS_PREFIX = 'cilium/state/ip/v1/default/';

/** One machine: it says who it is, what it has and that it is well, as often as it is connected. */
interface SimulatedMachine {
  readonly name: string;
  readonly address: string;
  readonly certificate: string;
  stream: MachineStream | undefined;
}

/** Runs the benchmark. */
export async function benchVmSessions(context: BenchContext): Promise<void> {
  const { sessions, idle } = parseSizes(context.args, DEFAULTS);
  const { signal, say } = context;
  await using etcd = await openEtcdServer();
  await using dir = await openTempDir('vm-sessions');
  await using store = await openEtcd({ endpoints: [etcd.endpoint] });
  const cluster = { name: 'alpha', id: 1 };
  const nodeFlags = context.agentFlags ?? [];
  const etcdEndpoint = etcd.endpoint;
  await using alpha = await prepareOurApiserver({ cluster, etcdEndpoint, nodeFlags, dir, signal });
  await alpha.manifest('service.yaml', SERVICE);
  say(`issuing ${sessions} certificates`);
  // One key for all: making 2,000 would take longer than everything else.
  const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const key = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  const machines = Array.from({ length: sessions }, (_, index): SimulatedMachine => {
    const name = `vm-${index + 1}`;
    const address = `10.9.${index >> 8}.${index & 255}`;
    const certificate = issueForKey(alpha.ca, { ...machineLeaf(name), publicKey });
    return { name, address, certificate, stream: undefined };
  });
  await writeRecords(store, machines);
  await alpha.start();
  const material = { ca: Buffer.from(alpha.ca.root), key: Buffer.from(key) };
  const dial = (machine: SimulatedMachine): void => {
    machine.stream?.close();
    const address = { host: '127.0.0.1', port: alpha.registryPort };
    const stream = dialMachineStream(address, {
      ...material,
      cert: Buffer.from(machine.certificate),
    });
    machine.stream = stream;
    stream.send(machineHello(machine.name, `boot-${machine.name}`));
    stream.send({ machine: { sequence: 1, addresses: [machine.address], boot_id: 'boot' } });
    stream.send({ health: { results: [{ check: 'tcp:5432', healthy: true }] } });
  };
  /** Dials whoever is not connected until all are accepted; resolves to the milliseconds that it took. */
  const settle = async (): Promise<number> => {
    const began = systemClock.monotonic();
    const failed = new Map<SimulatedMachine, { backoff: Backoff; again: number }>();
    for (const machine of machines) dial(machine);
    while (!machines.every(isAccepted)) {
      await systemClock.sleep(LOOK_MS, signal);
      const now = systemClock.monotonic();
      if (now - began > TIMEOUT_MS) throw new Error(`not all came back within ${TIMEOUT_MS} ms`);
      for (const machine of machines) {
        if (machine.stream?.ended === undefined) continue;
        const retry = failed.get(machine) ?? { backoff: createBackoff(AS_AGENTS), again: 0 };
        failed.set(machine, retry);
        if (retry.again === 0) retry.again = now + retry.backoff.next();
        else if (now >= retry.again) {
          retry.again = 0;
          dial(machine);
        }
      }
    }
    return systemClock.monotonic() - began;
  };

  const began = systemClock.monotonic();
  const firstMs = await settle();
  say(`${sessions} sessions after ${Math.round(firstMs)} ms`);
  await untilPublished(store, sessions, signal);
  const publishedMs = systemClock.monotonic() - began;
  const before = use(alpha);
  await systemClock.sleep(idle * 1000, signal);
  const after = use(alpha);
  const idleCpu = (after.cpuSeconds - before.cpuSeconds) / idle;
  say('the apiserver dies');
  await alpha.kill();
  const stopped = systemClock.monotonic();
  await alpha.start();
  const startMs = systemClock.monotonic() - stopped;
  const backMs = await settle();
  const end = use(alpha);
  say(`all are back after ${Math.round(backMs)} ms`);
  const lost = sessions - (await countAddresses(store));
  for (const machine of machines) machine.stream?.close();
  const conditions = { sessions, idleSeconds: idle, clients: 'in one other process' };
  const emit = (metric: string, value: number, unit: string): void =>
    context.emit({ bench: 'vm-sessions', metric, value: rounded(value), unit, conditions });
  emit('all sessions opened at once', firstMs, 'ms');
  emit('until all addresses are published', publishedMs, 'ms');
  emit('processors used while nothing happens', idleCpu, 'cores');
  emit('resident memory', after.residentBytes / 2 ** 20, 'MiB');
  emit('start after a crash', startMs, 'ms');
  emit('processor time from a crash until all are back', end.cpuSeconds, 's');
  emit('addresses lost by a crash', lost, 'addresses');
  context.emit({
    bench: 'vm-sessions',
    metric: 'all reconnect at once after a crash',
    value: rounded(backMs),
    unit: 'ms',
    budget: 'less than 30 s',
    met: backMs < BUDGET_MS,
    conditions,
  });
}

const SERVICE = `apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: 10.96.0.1, selector: {app: db}, ports: [{port: 5432}]}
`;

/** Enrols machines as if they had been there before. One in a hundred is a backend of the Service. */
async function writeRecords(store: KvStore, machines: readonly SimulatedMachine[]): Promise<void> {
  for (const [index, { name }] of machines.entries()) {
    const record = encodeMachineRecord({
      name,
      namespace: 'default',
      labels: { app: index % 100 === 0 ? 'db' : `app-${index % 50}` },
      addressRanges: [],
      publicKeyHash: 'shared',
      keys: [{ hash: 'shared', expiresAt: Date.now() + YEAR_MS }],
      revokedKeys: [],
      tokenId: 'bench',
      enrolledAt: Date.now(),
      addresses: [],
      bootId: '',
      agentVersion: 'bench',
      checks: new Map(),
      removedAt: undefined,
    });
    await store.put(MACHINES_PREFIX + name, record);
  }
}

/** Its greeting and its facts were accepted, and it was told what it has to know. */
function isAccepted({ stream }: SimulatedMachine): boolean {
  return (
    stream !== undefined &&
    stream.ended === undefined &&
    stream.heard.filter((message) => 'accepted' in message).length === 2 &&
    stream.heard.some((message) => 'config' in message)
  );
}

async function countAddresses(store: KvStore): Promise<number> {
  return (await store.count(IPS_PREFIX)).count;
}

async function untilPublished(store: KvStore, count: number, signal: AbortSignal): Promise<void> {
  const began = systemClock.monotonic();
  while ((await countAddresses(store)) < count) {
    if (systemClock.monotonic() - began > TIMEOUT_MS) throw new Error('not all were published');
    await systemClock.sleep(LOOK_MS, signal);
  }
}

function use(alpha: OurApiserver): ReturnType<typeof processUse> {
  return processUse(alpha.pid);
}
