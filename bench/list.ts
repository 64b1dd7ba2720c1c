/** Listing and decoding all addresses of a large cluster: our store, beside etcdctl and beside Cilium's own store code. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { z } from 'zod';
import { findPeer } from '../e2e/peers/peer-binary.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { type EtcdServer, openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { parseClusterName } from '../mesh/wire/ids.ts';
import { decodeIpIdentity } from '../mesh/wire/ip-identity.ts';
import { ipsPrefix } from '../mesh/wire/keys.ts';
import { fillStore } from './mesh-lab.ts';
import { type BenchContext, median, rounded } from './result.ts';
import { parseSizes } from './sizes.ts';

/** What kvtool prints after a list. */
const answerSchema = z.object({ count: z.number(), seconds: z.number() });

const run = promisify(execFile);
const DEFAULTS = { keys: 250_000, rounds: 9 };
const PREFIX = ipsPrefix(parseClusterName('beta'));
const ENTRIES_A_NODE = 200;

/** A reader of the whole prefix, timed by itself where starting it takes time. */
interface Contender {
  readonly name: string;
  /** Lists and decodes once; resolves to milliseconds. */
  read(): Promise<number>;
}

/** Runs the benchmark. Options: see DEFAULTS. */
export async function benchList(context: BenchContext): Promise<void> {
  const sizes = parseSizes(context.args, DEFAULTS);
  await using server = await openEtcdServer({ args: ['--quota-backend-bytes=8589934592'] });
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  context.say(`writing ${sizes.keys} addresses`);
  await fillStore(store, entries(sizes.keys));
  const ours: Contender = {
    name: 'ours',
    async read() {
      // A connection of its own, as the others have.
      await using reader = await openEtcd({ endpoints: [server.endpoint] });
      const began = systemClock.monotonic();
      let decoded = 0;
      for await (const batch of reader.watchBatches(
        { prefix: PREFIX },
        { signal: context.signal },
      )) {
        for (const event of batch) {
          if (event.kind === 'put') {
            decodeIpIdentity(event.pair.value, event.pair.key);
            decoded += 1;
          } else if (event.kind === 'synced') {
            if (decoded !== sizes.keys) throw new Error(`${decoded} of ${sizes.keys} were listed`);
            return systemClock.monotonic() - began;
          }
        }
      }
      throw new Error('the list ended early');
    },
  };
  const peers = [etcdctl(server), ...ciliumReaders(server, sizes.keys, context)];
  const times = new Map([ours, ...peers].map(({ name }) => [name, [] as number[]]));
  for (let round = -1; round < sizes.rounds; round += 1) {
    const all = [ours, ...peers];
    // Who is first changes from round to round; the first round does not count.
    for (const { name, read } of round % 2 === 0 ? all : all.reverse()) {
      const time = await read();
      if (round >= 0) times.get(name)?.push(rounded(time));
    }
  }
  const mine = times.get('ours') ?? [];
  for (const { name } of peers) {
    const theirs = times.get(name) ?? [];
    const [value, peerValue] = [median(mine), median(theirs)];
    const ratio = rounded(value / peerValue);
    const isCilium = name.startsWith('Cilium');
    context.emit({
      bench: 'list',
      metric: 'list and decode every address of a cluster',
      value,
      unit: 'ms',
      ...(isCilium ? { budget: "0.6 x Cilium's own store code or less", met: ratio <= 0.6 } : {}),
      peer: name,
      peerValue,
      ratio,
      conditions: { ...sizes, ours: mine, theirs },
    });
    context.say(`${value} ms, ${name} ${peerValue} ms: ${ratio} x`);
  }
}

/** Cilium's reader with pages of 10,000 and without a limit to its rate, and as it comes, with pages of 256. */
function ciliumReaders(server: EtcdServer, keys: number, context: BenchContext): Contender[] {
  const version = 'cilium-1.20';
  const binary = findPeer(`${version}/kvtool`);
  if (binary.kind === 'missing') {
    context.say(`without Cilium's reader: ${binary.reason}`);
    return [];
  }
  return [{ page: 10_000 }, { page: 256 }].map(({ page }) => ({
    name: `Cilium's store code (${version}, page ${page}, 1000 requests/s)`,
    async read() {
      const { stdout } = await run(binary.path, [
        'list',
        '--cluster=beta',
        '--cluster-id=2',
        `--endpoint=${server.endpoint}`,
        `--prefix=${PREFIX}`,
        `--page=${page}`,
        '--qps=1000',
      ]);
      const { count, seconds } = answerSchema.parse(JSON.parse(stdout));
      if (count !== keys) throw new Error(`${binary.path} listed ${count} of ${keys}`);
      return seconds * 1000;
    },
  }));
}

function etcdctl(server: EtcdServer): Contender {
  return {
    name: 'etcdctl, which decodes nothing',
    async read() {
      const began = systemClock.monotonic();
      await run(
        'etcdctl',
        [`--endpoints=${server.endpoint}`, '--command-timeout=60s', 'get', '--prefix', PREFIX],
        { env: { ETCDCTL_API: '3', PATH: '/usr/bin:/bin' }, maxBuffer: 1 << 30 },
      );
      return systemClock.monotonic() - began;
    },
  };
}

function* entries(count: number): Generator<{ key: string; value: string }> {
  for (let index = 0; index < count; index += 1) {
    const ip = `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`;
    const node = Math.floor(index / ENTRIES_A_NODE);
    yield {
      key: PREFIX + ip,
      value: `{"IP":"${ip}","Mask":null,"HostIP":"172.16.${node >> 8}.${node & 255}","ID":${131_072 + 256 + (index % 500)},"Key":0,"Metadata":"","K8sNamespace":"team-${index % 20}","K8sPodName":"web-6c9f7d8b5-${index.toString(36)}","K8sServiceAccount":"default"}`,
    };
  }
}
