import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { type Test, test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { MachineError } from './machine-error.ts';
import { installResolver, removeResolver } from './resolved.ts';
import {
  hasSystemd,
  installService,
  removeService,
  type ServiceManager,
  unitText,
} from './service.ts';

const { signal } = new AbortController();
const UNIT = 'etc/systemd/system/isthmus-agent.service';
const DROP_IN = 'etc/systemd/resolved.conf.d/isthmus.conf';

/** A systemd of a test's own: what it was asked, below a folder that stands for the root. */
async function openManager(t: Test) {
  const dir = await openTempDir('systemd');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const calls: string[] = [];
  let failing = '';
  const manager: ServiceManager = {
    root: dir.path,
    async systemctl(args) {
      calls.push(args.join(' '));
      if (args[0] === failing) throw new MachineError('state', 'it fails');
    },
  };
  return {
    dir,
    manager,
    take: () => calls.splice(0),
    fail: (action: string) => {
      failing = action;
    },
  };
}

test('the service is written once, started each time, and removed', async (t) => {
  const { dir, manager, take, fail } = await openManager(t);
  t.equal(hasSystemd(manager), false);
  mkdirSync(dir.file('run/systemd/system'), { recursive: true });
  t.equal(hasSystemd(manager), true);
  const command = ['/usr/bin/node', '/opt/isthmus/main.js', 'run', '--machine'];
  const options = { stateDir: '/var/lib/isthmus', manager, signal };
  await installService(command, options);
  t.same(take(), ['daemon-reload', 'enable --now isthmus-agent.service']);
  t.match(
    readFileSync(dir.file(UNIT), 'utf8'),
    /\nExecStart=\/usr\/bin\/node \/opt\/isthmus\/main\.js run --machine\n/,
  );
  t.equal(statSync(dir.file(UNIT)).mode & 0o777, 0o644);
  await installService(command, options);
  t.same(take(), ['enable --now isthmus-agent.service'], 'a second time it only runs');
  fail('disable');
  await t.rejects(removeService({ manager, signal }), { code: 'state' });
  t.ok(existsSync(dir.file(UNIT)), 'so that it can be tried again');
  fail('');
  take();
  t.equal(await removeService({ manager, signal }), true);
  t.same(take(), ['disable --now isthmus-agent.service', 'daemon-reload']);
  t.equal(await removeService({ manager, signal }), false);
  t.same(take(), []);
});

test('a unit has what a shell would take for something else as it is', (t) => {
  const text = unitText(['/opt/a b/node', 'run', '--name=50%', '--x="$HOME"\\'], '/state 100%');
  t.match(text, '\nExecStart="/opt/a b/node" run --name=50%% "--x=\\"$$HOME\\"\\\\"\n');
  t.match(text, '\nEnvironmentFile=-/state 100%%/agent.env\n');
  t.end();
});

test('systemd-resolved is led to ours only where it asks nobody else for the whole machine', async (t) => {
  const { dir, manager, take } = await openManager(t);
  const address = { host: '127.0.0.55', port: 53 };
  const options = { clusterDomain: 'cluster.local', address, manager, signal };
  const without = await installResolver(options);
  t.equal(without.isDone, false);
  t.match(
    without.text,
    /dnsmasq: server=\/cluster\.local\/127\.0\.0\.55, server=\/clusterset\.local\/127\.0\.0\.55/,
  );

  mkdirSync(dir.file('run/systemd/resolve'), { recursive: true });
  mkdirSync(dir.file('etc/systemd'), { recursive: true });
  writeFileSync(dir.file('etc/systemd/resolved.conf'), '[Resolve]\n#DNS=\nDNS=192.0.2.53\n');
  const beside = await installResolver(options);
  t.match(beside, {
    isDone: false,
    text: /resolved\.conf sets name servers for the whole machine/,
  });
  t.same(take(), []);

  writeFileSync(dir.file('etc/systemd/resolved.conf'), '[Resolve]\n#DNS=192.0.2.53\nDNS=\n');
  t.match(await installResolver(options), { isDone: true });
  t.same(take(), ['try-reload-or-restart systemd-resolved.service']);
  t.match(
    readFileSync(dir.file(DROP_IN), 'utf8'),
    /\[Resolve\]\nDNS=127\.0\.0\.55\nDomains=~cluster\.local ~clusterset\.local\n$/,
  );
  t.match(await installResolver(options), { isDone: true });
  t.same(take(), [], 'nothing has changed');
  await removeResolver({ manager, signal });
  t.notOk(existsSync(dir.file(DROP_IN)));
  await removeResolver({ manager, signal });
  t.same(take(), ['try-reload-or-restart systemd-resolved.service']);
});
