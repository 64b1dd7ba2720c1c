import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { promisify } from 'node:util';
import { z } from 'zod';
import { type ChildHandle, startChild } from '../runtime/child-process.ts';
import { systemClock } from '../runtime/clock.ts';
import { findFreePort } from './free-port.ts';
import { openTempDir } from './temp-dir.ts';

const run = promisify(execFile);
const ETCD = '/usr/bin/etcd';
const READY_TIMEOUT_MS = 30_000;
const START_ATTEMPTS = 3;

/** One member of the cluster, to be broken by itself. */
export interface EtcdMember {
  readonly name: string;
  /** `http://127.0.0.1:port`, the same over restarts. */
  readonly endpoint: string;
  readonly port: number;
  /** Ends it by SIGKILL and waits for its end. */
  kill(): Promise<void>;
  /** Starts it again on its data; does not wait until it answers, which without a quorum it cannot. */
  start(): void;
  /** SIGSTOP: it holds its connections and answers nothing. */
  pause(): void;
  resume(): void;
}

/** A real etcd of several members for one test, on loopback. Disposing kills all and removes their data. */
export interface EtcdCluster extends AsyncDisposable {
  readonly members: readonly EtcdMember[];
  readonly endpoints: readonly string[];
  /** The member that leads, as the members that answer say; waits until there is one. */
  leader(): Promise<EtcdMember>;
  /** Hands the lead to another member, and resolves to it. */
  moveLeader(): Promise<EtcdMember>;
  /** Resolves when every member answers reads. */
  untilHealthy(): Promise<void>;
  /** Runs etcdctl against all members, or those given; resolves to what it printed. */
  etcdctl(args: readonly string[], endpoints?: readonly string[]): Promise<string>;
}

const statusSchema = z.tuple([
  z.looseObject({
    Status: z.looseObject({
      header: z.looseObject({ member_id: z.number() }),
      leader: z.number().default(0),
    }),
  }),
]);

/** Starts an etcd of `size` members (default 3) with empty data and resolves when all of them answer. */
export async function openEtcdCluster(
  options: { readonly size?: number; readonly args?: readonly string[] } = {},
): Promise<EtcdCluster> {
  for (let attempt = 1; ; attempt += 1) {
    const cluster = await launch(options);
    try {
      await cluster.untilHealthy();
      return cluster;
    } catch (error) {
      // Somebody may have taken a port between the search and the start.
      await cluster[Symbol.asyncDispose]();
      if (attempt === START_ATTEMPTS) throw error;
    }
  }
}

async function launch(options: {
  readonly size?: number;
  readonly args?: readonly string[];
}): Promise<EtcdCluster> {
  const { size = 3, args = [] } = options;
  const dir = await openTempDir('etcd-cluster');
  const stopping = new AbortController();
  const token = randomBytes(8).toString('hex');
  const children = new Map<string, ChildHandle>();
  const ports: { name: string; client: number; peer: number }[] = [];
  for (let index = 0; index < size; index += 1) {
    ports.push({
      name: `m${index}`,
      client: await findFreePort(),
      peer: await findFreePort(),
    });
  }
  const initial = ports.map(({ name, peer }) => `${name}=http://127.0.0.1:${peer}`).join();

  const start = ({ name, client, peer }: (typeof ports)[number]): void => {
    const child = startChild(
      ETCD,
      [
        `--name=${name}`,
        `--data-dir=${dir.file(name)}`,
        `--listen-client-urls=http://127.0.0.1:${client}`,
        `--advertise-client-urls=http://127.0.0.1:${client}`,
        `--listen-peer-urls=http://127.0.0.1:${peer}`,
        `--initial-advertise-peer-urls=http://127.0.0.1:${peer}`,
        `--initial-cluster=${initial}`,
        `--initial-cluster-token=${token}`,
        `--max-request-bytes=${16 * 1024 * 1024}`,
        '--logger=zap',
        '--log-level=warn',
        ...args,
      ],
      { signal: stopping.signal, name },
    );
    children.set(name, child);
  };
  const members = ports.map((port): EtcdMember => {
    const child = (): ChildHandle | undefined => children.get(port.name);
    return {
      name: port.name,
      endpoint: `http://127.0.0.1:${port.client}`,
      port: port.client,
      kill: async () => {
        child()?.kill('SIGCONT');
        child()?.kill('SIGKILL');
        await child()?.exited;
      },
      start: () => start(port),
      pause: () => child()?.kill('SIGSTOP'),
      resume: () => child()?.kill('SIGCONT'),
    };
  });
  const endpoints = members.map(({ endpoint }) => endpoint);
  const etcdctl: EtcdCluster['etcdctl'] = async (command, asked = endpoints) => {
    const { stdout } = await run(
      'etcdctl',
      [`--endpoints=${asked.join()}`, '--dial-timeout=1s', '--command-timeout=2s', ...command],
      { env: { ETCDCTL_API: '3', PATH: '/usr/bin:/bin' }, maxBuffer: 64 * 1024 * 1024 },
    );
    return stdout;
  };
  const statusOf = async ({ endpoint }: EtcdMember): Promise<{ id: number; leader: number }> => {
    const text = await etcdctl(['endpoint', 'status', '-w', 'json'], [endpoint]);
    // Ids are above 2^53: rounded alike wherever they stand, they can still be compared.
    const [{ Status }] = statusSchema.parse(JSON.parse(text));
    return { id: Status.header.member_id, leader: Status.leader };
  };
  const leader = (): Promise<EtcdMember> =>
    inTime('a leader', async () => {
      const answers = await Promise.allSettled(members.map(statusOf));
      const known = answers.flatMap((answer, index) => {
        const member = members[index];
        return answer.status === 'fulfilled' && member !== undefined
          ? [{ member, ...answer.value }]
          : [];
      });
      const leading = known.find(({ id, leader }) => id === leader);
      if (leading === undefined) throw new Error('no member says that it leads');
      return leading.member;
    });

  for (const port of ports) start(port);
  return {
    members,
    endpoints,
    leader,
    async moveLeader() {
      const from = await leader();
      const to = members.find((member) => member !== from);
      const text = await etcdctl(['endpoint', 'status', '-w', 'fields'], [to?.endpoint ?? '']);
      const id = /"MemberID" : (\d+)/.exec(text)?.[1];
      if (id === undefined) throw new Error(`cannot read a member's id from ${text}`);
      await etcdctl(['move-leader', BigInt(id).toString(16)], [from.endpoint]);
      return inTime('the lead to move', async () => {
        const now = await leader();
        if (now === from) throw new Error(`${from.name} still leads`);
        return now;
      });
    },
    untilHealthy: () =>
      inTime('every member to answer', async () => {
        for (const endpoint of endpoints) await etcdctl(['get', 'any'], [endpoint]);
      }),
    etcdctl,
    async [Symbol.asyncDispose]() {
      for (const member of members) await member.kill();
      stopping.abort();
      await rm(dir.path, { recursive: true, force: true });
      await dir[Symbol.asyncDispose]();
    },
  };
}

async function inTime<T>(what: string, attempt: () => Promise<T>): Promise<T> {
  const deadline = systemClock.monotonic() + READY_TIMEOUT_MS;
  for (;;) {
    try {
      return await attempt();
    } catch (cause) {
      if (systemClock.monotonic() > deadline) {
        throw new Error(`waited ${READY_TIMEOUT_MS} ms in vain for ${what}`, { cause });
      }
    }
    await systemClock.sleep(50);
  }
}
