/** Leading names of Services to the agent's resolver: a drop-in of systemd-resolved, where that runs and it is safe. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { CLUSTERSET_DOMAIN } from '../dns/names.ts';
import { hostPortText } from './server-probe.ts';
import { type ServiceManager, systemd } from './service.ts';

const DROP_IN = 'etc/systemd/resolved.conf.d/isthmus.conf';
const SERVICE = 'systemd-resolved.service';
const FOLDERS = ['etc', 'run', 'usr/local/lib', 'usr/lib'];

/** What became of it, for a person. */
export interface ResolverSetup {
  readonly isDone: boolean;
  /** Where it is not done: what to put where. */
  readonly text: string;
}

/**
 * Writes the drop-in and has it read. systemd-resolved takes all servers that are set for the whole machine for equals, so one is
 * added only where there are no others: names of elsewhere would come to ours, too.
 */
export async function installResolver(options: {
  readonly clusterDomain: string;
  /** Where the agent answers names. */
  readonly address: HostPort;
  readonly manager?: ServiceManager;
  readonly signal: AbortSignal;
}): Promise<ResolverSetup> {
  const { clusterDomain, manager = systemd, signal } = options;
  const domains = [clusterDomain, CLUSTERSET_DOMAIN];
  const { host, port } = options.address;
  const server = port === 53 ? host : hostPortText(options.address);
  const byHand = `to have names of Services resolved, let your resolver ask ${server} for ${domains.join(' and ')} (dnsmasq: ${domains.map((domain) => `server=/${domain}/${port === 53 ? host : `${host}#${port}`}`).join(', ')}; unbound: a forward-zone for each)`;
  if (!existsSync(join(manager.root, 'run/systemd/resolve'))) {
    return { isDone: false, text: byHand };
  }
  const path = join(manager.root, DROP_IN);
  const other = otherGlobalServer(manager.root);
  if (other !== undefined) {
    return {
      isDone: false,
      text: `${other} sets name servers for the whole machine, which systemd-resolved would mix with ours; ${byHand}`,
    };
  }
  const text = `# Written by clustermesh vm join, removed by clustermesh vm leave.\n[Resolve]\nDNS=${server}\nDomains=${domains.map((domain) => `~${domain}`).join(' ')}\n`;
  if (!existsSync(path) || readFileSync(path, 'utf8') !== text) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text, { mode: 0o644 });
    await manager.systemctl(['try-reload-or-restart', SERVICE], signal);
  }
  return { isDone: true, text: `systemd-resolved asks ${server} for ${domains.join(' and ')}` };
}

/** Removes the drop-in; one that is not there is no error. */
export async function removeResolver(options: {
  readonly manager?: ServiceManager;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { manager = systemd, signal } = options;
  const path = join(manager.root, DROP_IN);
  if (!existsSync(path)) return;
  rmSync(path);
  await manager.systemctl(['try-reload-or-restart', SERVICE], signal);
}

/** A file other than ours that names servers for the whole machine. */
function otherGlobalServer(root: string): string | undefined {
  const files = FOLDERS.flatMap((folder) => {
    const systemdFolder = join(root, folder, 'systemd');
    const dropIns = join(systemdFolder, 'resolved.conf.d');
    const names = existsSync(dropIns) ? readdirSync(dropIns) : [];
    return [
      join(systemdFolder, 'resolved.conf'),
      ...names.filter((name) => name.endsWith('.conf')).map((name) => join(dropIns, name)),
    ];
  });
  const others = files.filter((file) => file !== join(root, DROP_IN) && existsSync(file));
  return others.find((file) => /^\s*DNS\s*=\s*\S/m.test(readFileSync(file, 'utf8')));
}
