import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import type { Backend } from './desired.ts';
import { createSocketEnd, type SocketEnd } from './socket-end.ts';
import { listWaitingSockets, type RunProgram, runProgram } from './socket-list.ts';
import { createSocketOrphans, type OrphanedSocket } from './socket-orphans.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import {
  mapped,
  openSocketRig,
  RIG_FRONTENDS,
  RIG_SILENT,
  type SocketRig,
  said,
} from './testing/socket-rig.ts';

const skip = kernelSkipReason();
const never = new AbortController().signal;
const WAYS = [
  { family: 'four', address: RIG_FRONTENDS.four, type: 'udp4' },
  { family: 'six', address: RIG_FRONTENDS.six, type: 'udp6' },
  { family: 'four', address: mapped(RIG_FRONTENDS.four), type: 'udp6' },
] as const;

function socketEndOf(rig: SocketRig): SocketEnd {
  return createSocketEnd({
    orphans: createSocketOrphans(rig.maps.get('mesh_translations'), rig.services),
    namespaces: () => rig.namespaces,
    isComplete: () => false,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
}

/** Lines that a logger wrote, and the logger. */
function createLog() {
  const lines: string[] = [];
  const logger = createLogger('test', {
    level: 'debug',
    destination: { write: (line: string) => void lines.push(line) },
  });
  return { lines, logger };
}

test('sockets of a backend that vanished are ended', { skip }, async (t) => {
  await using rig = await openSocketRig();
  const socketEnd = socketEndOf(rig);
  const sweep = (all = false): Promise<number> => socketEnd.sweep({ all, signal: never });
  const [, pod] = rig.namespaces;

  await t.test('UDP: the next send fails, a new connect finds who is there', async (t) => {
    for (const { family, address, type } of WAYS) {
      const gone = await rig.listen('UDP', family, 'gone');
      const next = await rig.listen('UDP', family, 'next');
      const call = async (socket: string): Promise<string> =>
        said(await rig.pod.call({ kind: 'udp', socket, type, connected: true, address, port: 80 }));
      const send = async (socket: string): Promise<string> =>
        said(await rig.pod.call({ kind: 'send', socket }));
      rig.give('UDP', family, { backends: [gone] });
      t.equal(await call('through us'), 'gone', address);
      t.equal(
        said(
          await rig.node.call({
            kind: 'udp',
            socket: 'node',
            type,
            connected: true,
            address,
            port: 80,
          }),
        ),
        'gone',
        'a socket of the node, too',
      );
      await rig.pod.call({
        kind: 'udp',
        socket: 'direct',
        type,
        connected: true,
        address: address === RIG_FRONTENDS[family] ? gone.address : mapped(gone.address),
        port: gone.port,
      });
      rig.give('UDP', family, { backends: [gone], port: 81 });
      await rig.pod.call({
        kind: 'udp',
        socket: 'other',
        type,
        connected: true,
        address,
        port: 81,
      });

      rig.give('UDP', family, { backends: [next], draining: [gone] });
      t.equal(await sweep(), 0, 'who is on the way out keeps its sockets');
      t.equal(await send('through us'), 'sent');
      rig.give('UDP', family, { backends: [next] });
      t.equal(await sweep(), 2, 'pod and node');
      t.match(await send('through us'), /ECONNABORTED|EDESTADDRREQ/);
      t.match(
        said(await rig.node.call({ kind: 'send', socket: 'node' })),
        /ECONNABORTED|EDESTADDRREQ/,
      );
      t.equal(await send('direct'), 'sent', 'a socket that we did not translate goes on');
      t.equal(await send('other'), 'sent', 'as does one that called a frontend which still has it');
      await rig.pod.call({ kind: 'close', socket: 'through us' });
      t.equal(await call('again'), 'next');
      t.equal(await sweep(), 0, 'once is enough');
      for (const socket of ['direct', 'other', 'again']) {
        await rig.pod.call({ kind: 'close', socket });
      }
      await rig.node.call({ kind: 'close', socket: 'node' });
      rig.services.apply({ upserts: [], deletes: rig.services.rows() });
    }
  });

  await t.test('UDP: a socket that was connected anew is left alone', async (t) => {
    const one = await rig.listen('UDP', 'four', 'one');
    const two = await rig.listen('UDP', 'four', 'two');
    const address = RIG_FRONTENDS.four;
    const request = {
      kind: 'udp',
      socket: 'anew',
      type: 'udp4',
      connected: true,
      address,
    } as const;
    rig.give('UDP', 'four', { backends: [one] });
    rig.give('UDP', 'four', { backends: [two], port: 81 });
    t.equal(said(await rig.pod.call({ ...request, port: 80 })), 'one');
    await rig.pod.call({ kind: 'disconnect', socket: 'anew' });
    t.equal(said(await rig.pod.call({ ...request, port: 81 })), 'two');
    rig.give('UDP', 'four', { backends: [two] });
    t.equal(await sweep(), 0);
    t.equal(said(await rig.pod.call({ kind: 'send', socket: 'anew' })), 'sent');
    await rig.pod.call({ kind: 'close', socket: 'anew' });
  });

  await t.test('TCP: who waits for a backend to answer learns that it is gone', async (t) => {
    for (const { family, address } of WAYS) {
      const silent: Backend = {
        address: RIG_SILENT[family],
        port: 80,
        protocol: 'TCP',
        clusterId: 1,
      };
      const server = await rig.listen('TCP', family, 'tcp');
      rig.give('TCP', family, { backends: [server] });
      await rig.node.call({ kind: 'tcp', address, port: 80, hold: 'established' });
      rig.give('TCP', family, { backends: [silent] });
      const waiting = rig.pod.call({ kind: 'tcp', address, port: 80, timeoutMs: 60_000 });
      while (
        (await listWaitingSockets(pod, 'TCP', { run: runProgram, signal: never })).length === 0
      ) {
        await pause(20);
      }
      rig.give('TCP', family, { backends: [] });
      t.equal(await sweep(), 1, address);
      t.equal(said(await waiting), 'ECONNABORTED');
      t.match(
        await rig.node.call({ kind: 'peer', socket: 'established' }),
        { address, port: 80 },
        'an established connection goes on',
      );
      await rig.node.call({ kind: 'close', socket: 'established' });
    }
  });

  await t.test('after a start all sockets are looked at', async (t) => {
    const gone = await rig.listen('UDP', 'four', 'before');
    const address = RIG_FRONTENDS.four;
    const request = { kind: 'udp', type: 'udp4', connected: true, address } as const;
    rig.give('UDP', 'four', { backends: [gone] });
    rig.give('UDP', 'four', { backends: [gone], port: 81 });
    await rig.pod.call({ ...request, socket: 'lost', port: 80 });
    await rig.pod.call({ ...request, socket: 'kept', port: 81 });
    rig.give('UDP', 'four', { backends: [] });
    // The process that saw it go has died.
    rig.services.takeLost();
    t.equal(await socketEndOf(rig).sweep({ all: false, signal: never }), 0);
    t.equal(await sweep(true), 1);
    t.match(
      said(await rig.pod.call({ kind: 'send', socket: 'lost' })),
      /ECONNABORTED|EDESTADDRREQ/,
    );
    t.equal(said(await rig.pod.call({ kind: 'send', socket: 'kept' })), 'sent');
  });
});

/** A machine whose `ss` shows the socket that it is asked for, and that does or does not end it. */
function fakeMachine(does: { readonly end: boolean; readonly list: boolean }) {
  const calls: string[] = [];
  const ended = new Set<string>();
  const run: RunProgram = async (argv) => {
    const line = argv.join(' ');
    calls.push(line);
    if (argv.includes('-K')) {
      const filter = argv.at(-1) ?? '';
      if (does.end) for (const [, end] of filter.matchAll(/src (\S+) and/g)) ended.add(end ?? '');
      return '';
    }
    const asked = /src (\S+)$/.exec(line)?.[1];
    if (!does.list || asked === undefined || ended.has(asked)) return '';
    return `0      0      ${asked} ${asked} ino:1 sk:99 cgroup:/ <->`;
  };
  return { calls, run };
}

const ORPHAN: OrphanedSocket = { cookie: 0x7bn, backend: 'UDP 10.0.0.9 53' };

test('what cannot be ended is said once, with what is lost', async (t) => {
  const cases = [
    {
      name: 'the kernel lists no UDP sockets',
      ...fakeMachine({ end: true, list: false }),
      reason: /CONFIG_INET_UDP_DIAG/,
    },
    {
      name: 'the kernel ends none',
      ...fakeMachine({ end: false, list: true }),
      reason: /CONFIG_INET_DIAG_DESTROY/,
    },
    {
      name: 'there is no ss',
      calls: [] as string[],
      run: async () => {
        throw Object.assign(new Error('spawn ss ENOENT'), { code: 'ENOENT' });
      },
      reason: /ss of iproute2 cannot be run: spawn ss ENOENT/,
    },
  ];
  for (const { name, run, reason } of cases) {
    const { lines, logger } = createLog();
    const socketEnd = createSocketEnd({
      orphans: { find: async () => [ORPHAN] },
      namespaces: () => [],
      isComplete: () => true,
      run,
      clock: createManualClock(),
      logger,
    });
    for (let round = 0; round < 3; round += 1) {
      t.equal(await socketEnd.sweep({ all: false, signal: never }), 0);
    }
    t.equal(lines.length, 1, `${name}: one line`);
    t.match(lines[0], /send into nothing/);
    t.match(lines[0], reason);
  }
});

test('many vanish at once: programs are few, and none where nothing was lost', async (t) => {
  const machine = fakeMachine({ end: true, list: true });
  const count = 10_000;
  const sockets = Array.from({ length: count }, (_, index) => ({
    cookie: BigInt(index + 1000),
    backend: `UDP 10.1.${index >> 8}.${index & 255} 53`,
  }));
  const listing = sockets
    .map(
      ({ cookie, backend }) =>
        `0 0 10.0.0.5:${Number(cookie)} ${backend.split(' ')[1]}:53 ino:2 sk:${cookie.toString(16)} <->`,
    )
    .join('\n');
  let orphans: OrphanedSocket[] = [];
  const socketEnd = createSocketEnd({
    orphans: { find: async () => orphans },
    namespaces: () => ['/run/netns/a', '/run/netns/b', '/run/netns/a'],
    isComplete: () => true,
    run: async (argv, signal) => {
      const isListing = argv.includes('/run/netns/a') || argv.includes('--net=/run/netns/a');
      const text = await machine.run(argv, signal);
      return isListing && !argv.includes('-K') ? listing : text;
    },
    clock: createManualClock(),
    logger: createLogger('test', { level: 'silent' }),
  });
  t.equal(await socketEnd.sweep({ all: false, signal: never }), 0);
  t.strictSame(machine.calls, [], 'nothing was lost: nothing is run');
  orphans = sockets;
  t.equal(await socketEnd.sweep({ all: false, signal: never }), count);
  t.ok(machine.calls.length < 100, `${machine.calls.length} programs`);
  t.notOk(
    machine.calls.some((call) => call.includes(' -t ')),
    'TCP is not looked at when only UDP lost something',
  );
  t.ok(
    machine.calls.every((call) => call.length < 65_536),
    'a filter fits into the kernel',
  );
});

test('a round that took long is followed by a rest', async (t) => {
  const clock = createManualClock();
  const rounds: number[] = [];
  const asked: boolean[] = [];
  let complete = false;
  const socketEnd = createSocketEnd({
    orphans: {
      find: async ({ all }) => {
        rounds.push(clock.monotonic());
        asked.push(all);
        if (rounds.length === 2) await clock.sleep(1000);
        return [];
      },
    },
    namespaces: () => [],
    isComplete: () => complete,
    clock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const stopping = new AbortController();
  const running = socketEnd.run(stopping.signal);
  await clock.advance(500);
  complete = true;
  await clock.advance(1000);
  await clock.advance(18_000);
  t.strictSame(rounds, [0, 500], 'a twentieth of the time at most');
  await clock.advance(2000);
  t.equal(rounds[2], 20_500);
  t.strictSame(
    asked.slice(0, 4),
    [false, false, true, false],
    'all sockets once, when all is read',
  );
  stopping.abort();
  await running;
});
