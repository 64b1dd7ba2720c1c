import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { lookAtNodes, type NodeReach } from './reach.ts';

const run = promisify(execFile);
const LOOK = fileURLToPath(new URL('./reach.js', import.meta.url));
const { signal } = new AbortController();

/** What is seen of a node in a network of its own, which a firewall guards by these rules. */
async function lookBehind(
  rules: readonly string[],
  address = '127.0.0.1',
): Promise<NodeReach | undefined> {
  const program = `
    import { createSocket } from 'node:dgram';
    import { lookAtNodes } from ${JSON.stringify(LOOK)};
    const socket = createSocket('udp4').bind(8472, '127.0.0.1');
    await new Promise((resolve) => socket.once('listening', resolve));
    const { signal } = new AbortController();
    const seen = await lookAtNodes({ addresses: ['${address}'], udpPort: 8472 }, { signal });
    socket.close();
    console.log(JSON.stringify(seen));
  `;
  const script = `ip link set lo up && eval "$1" && exec "$2" --input-type=module -e "$3"`;
  const { stdout } = await run('unshare', [
    '--net',
    'bash',
    '-c',
    script,
    'bash',
    ['true', ...rules.map((rule) => `iptables -A INPUT ${rule}`)].join(' && '),
    process.execPath,
    program,
  ]);
  return (JSON.parse(stdout) as NodeReach[])[0];
}

const skip = process.getuid?.() === 0 ? false : 'a network of its own needs root';

test('lookAtNodes() sees what is in the way of a tunnel', { skip }, async (t) => {
  const tunnel = '-p udp --dport 8472';
  const cases: readonly (readonly [readonly string[], RegExp | undefined, string?])[] = [
    [[], undefined],
    [[`${tunnel} -j REJECT`], /^UDP port 8472 is closed \(ECONNREFUSED\)$/],
    [
      [`${tunnel} -j REJECT --reject-with icmp-admin-prohibited`],
      /^UDP port 8472 is closed \(EHOSTUNREACH\)$/,
    ],
    [
      ['-p tcp --dport 4240 -j DROP', '-p icmp --icmp-type echo-request -j DROP'],
      /^it does not answer/,
    ],
    [[], /^it does not answer/, '192.0.2.1'],
    // Nobody says that it is closed: what is tunnelled by a stranger is answered by nobody either.
    [[`${tunnel} -j DROP`], undefined],
  ];
  await Promise.all(
    cases.map(async ([rules, problem, address]) => {
      const seen = await lookBehind(rules, address);
      const what = rules.join(', ') || address || 'no firewall';
      if (problem === undefined) t.equal(seen?.problem, undefined, what);
      else t.match(seen?.problem, problem, what);
    }),
  );
});

test('lookAtNodes() asks no port where nothing is tunnelled', async (t) => {
  const address = parseIpAddress('127.0.0.1');
  const question = { addresses: [address], udpPort: undefined };
  const seen = await lookAtNodes(question, { signal, probe: async () => 'answered' });
  t.same(seen, [{ address, problem: undefined }]);
});
