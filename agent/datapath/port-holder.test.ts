import { execFileSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { ensureTunnelDevice, removeTunnelDevice } from './devices.ts';
import { findPortHolder, holderText } from './port-holder.ts';

const skip =
  process.geteuid?.() === 0 || process.env.CI === 'true' ? false : 'needs root to make devices';

/** A UDP port that nobody has; a socket on it until it is closed. */
async function openSocket(
  type: 'udp4' | 'udp6',
): Promise<{ port: number; close: () => Promise<void> }> {
  const socket = createSocket(type);
  socket.bind(0);
  await once(socket, 'listening');
  return {
    port: socket.address().port,
    close: async () => {
      socket.close();
      await once(socket, 'close');
    },
  };
}

for (const type of ['udp4', 'udp6'] as const) {
  test(`findPortHolder() finds a program on ${type}`, async (t) => {
    const socket = await openSocket(type);
    const holder = findPortHolder(socket.port);
    t.match(holder, { kind: 'program', pid: process.pid });
    t.match(holder === undefined ? '' : holderText(holder), new RegExp(`pid ${process.pid}`));
    await socket.close();
    t.equal(findPortHolder(socket.port), undefined);
  });
}

const HEAD =
  '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n';
const line = (port: string, inode: string): string =>
  `  10: 00000000:${port} 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 ${inode} 2 00000000 0\n`;

test('findPortHolder() reads the tables of the kernel', async (t) => {
  await using dir = await openTempDir('port');
  const places = { self: dir.file('self'), processes: dir.file('proc') };
  mkdirSync(dir.file('self', 'net'), { recursive: true });
  mkdirSync(dir.file('proc', '7', 'fd'), { recursive: true });
  mkdirSync(dir.file('proc', '8'));
  writeFileSync(dir.file('proc', '7', 'comm'), 'flanneld\n');
  symlinkSync('socket:[4711]', dir.file('proc', '7', 'fd', '3'));
  const write = (...lines: string[]): void =>
    writeFileSync(dir.file('self', 'net', 'udp'), `${HEAD}${lines.join('')}`);
  const cases: readonly (readonly [string, readonly string[], unknown])[] = [
    ['nobody', [line('2119', '4711')], undefined],
    ['the kernel', [line('2118', '0')], { kind: 'kernel' }],
    ['a program', [line('2118', '4711')], { kind: 'program', pid: 7, name: 'flanneld' }],
    ['a program out of sight', [line('2118', '5')], { kind: 'program', pid: undefined, name: '' }],
    ['a cut line', ['  10: 00000000:2118 0000'], undefined],
  ];
  for (const [what, lines, expected] of cases) {
    write(...lines);
    t.same(findPortHolder(8472, places), expected, what);
  }
});

test('another user of the tunnel port is named before the device is made', { skip }, async (t) => {
  const id = `${process.pid % 100_000}`;
  const socket = await openSocket('udp4');
  const { port } = socket;
  const ensure = () =>
    ensureTunnelDevice({
      tunnelDevice: `istp${id}`,
      tunnelPort: port,
      nodeIps: [parseIpAddress('127.0.0.1')],
    });
  t.teardown(() => removeTunnelDevice(`istp${id}`));
  await t.rejects(ensure(), {
    code: 'port-taken',
    message: new RegExp(
      `port ${port} for istp${id}: program .* \\(pid ${process.pid}\\) has it; .*--tunnel-port`,
    ),
  });
  await socket.close();
  for (const [name, owner] of [
    [`flannel.${id}`, ' of Flannel'],
    ['cilium_vxlan', ' of Cilium'],
    [`other${id}`, ''],
  ] as const) {
    const kind = name === 'cilium_vxlan' ? ['external'] : ['id', '1'];
    execFileSync('ip', [
      'link',
      'add',
      name,
      'type',
      'vxlan',
      ...kind,
      'dstport',
      `${port}`,
      'nolearning',
    ]);
    try {
      await t.rejects(ensure(), {
        code: 'port-taken',
        message: new RegExp(
          `VXLAN device ${name.replace('.', '\\.')}${owner} has it; set --tunnel-port`,
        ),
      });
    } finally {
      execFileSync('ip', ['link', 'delete', name]);
    }
  }
  t.match(await ensure(), { name: `istp${id}` }, 'then it is free');
  t.match(await ensure(), { name: `istp${id}` }, 'our own device is taken over');
  const shown = execFileSync('ip', ['-json', 'link', 'show', 'dev', `istp${id}`]).toString();
  t.match(shown, /UP/);
});
