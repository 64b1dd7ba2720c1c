import { appendFile, chmod, readFile, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { type IpPrefix, parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { createHostRoutes } from './host-routes.ts';

const DEVICE = 'tunnel';
const KEEP_NONE = (): ReadonlySet<IpPrefix> => new Set();

const networks = (count: number): IpPrefix[] =>
  Array.from({ length: count }, (_, index) =>
    parseIpPrefix(`10.${index >> 8}.${index & 255}.0/24`),
  );

/** Stands in for iproute2: notes what it is asked for, and shows what a file says. Fails while a file of that name is there. */
const PROGRAM = `#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$*" >>calls
case "$*" in
*'route show'*) cat routes ;;
*-batch*) if [ -e failing ]; then cat >/dev/null; echo 'RTNETLINK answers: No buffer space' >&2; exit 1; fi; cat >>commands ;;
*) echo '[{"ifname":"underlay","mtu":1500,"addr_info":[{"local":"192.0.2.1","prefixlen":24}]}]' ;;
esac
`;

test('createHostRoutes() reads routes when it is told to, and takes equal ones apart once', async (t) => {
  await using folder = await openTempDir('host-routes');
  const { PATH } = process.env;
  t.teardown(() => {
    process.env.PATH = PATH;
  });
  process.env.PATH = `${folder.path}:${PATH}`;
  await writeFile(folder.file('ip'), PROGRAM);
  await chmod(folder.file('ip'), 0o755);
  for (const name of ['calls', 'commands']) await writeFile(folder.file(name), '');
  const show = (prefixes: readonly IpPrefix[]): Promise<void> =>
    writeFile(
      folder.file('routes'),
      JSON.stringify(prefixes.map((dst) => ({ dst, prefsrc: '192.0.2.1' }))),
    );
  const taken = async (name: string): Promise<string[]> => {
    const lines = (await readFile(folder.file(name), 'utf8')).split('\n').filter(Boolean);
    await writeFile(folder.file(name), '');
    return lines;
  };
  const routes = createHostRoutes({ device: DEVICE, nodeIps: [parseIpAddress('192.0.2.1')] });
  const sync = (wanted: readonly IpPrefix[], remembers: boolean) =>
    routes.sync({ wanted, remembers, keep: KEEP_NONE });

  await show([]);
  t.match(await sync(networks(1000), true), { added: 1000, removed: 0, problems: [] });
  t.equal((await taken('calls')).length, 3, 'routes, networks, changes: nothing was known before');
  t.equal((await taken('commands')).length, 1000);
  await show(networks(1000));

  t.match(await sync(networks(1001), true), { added: 1, removed: 0 });
  t.equal((await taken('calls')).length, 1, 'only what is new');
  t.match(await taken('commands'), [
    /^route replace 10\.3\.232\.0\/24 dev tunnel .*src 192\.0\.2\.1$/,
  ]);
  t.match(await sync(networks(1001), true), { added: 0, removed: 0 });
  t.strictSame(await taken('calls'), [], 'nothing is new');
  t.match(await sync(networks(1000), true), { added: 0, removed: 1 });
  t.match(await taken('commands'), [/^route delete 10\.3\.232\.0\/24 /]);

  await show(networks(999));
  await taken('calls');
  t.match(await sync(networks(1000), true), { added: 0 }, 'what others do is not seen');
  t.match(await sync(networks(1000), false), { added: 1 }, 'until routes are read');
  t.equal((await taken('calls')).length, 3);
  await show(networks(1000));
  for (const _ of [1, 2]) t.match(await sync(networks(1000), false), { added: 0, removed: 0 });

  await appendFile(folder.file('failing'), '');
  const failed = await sync(networks(1001), true);
  t.match(failed.problems, [/^a route of tunnel cannot be made or removed: RTNETLINK answers: No/]);
  await taken('calls');
  t.match(await sync(networks(1001), true), { added: 1 }, 'tried again');
  t.equal((await taken('calls')).length, 3, 'after a failure nothing is taken for granted');
});
