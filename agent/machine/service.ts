/** The agent of a machine as a service of systemd, where that runs. */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { MachineError, reasonOf } from './machine-error.ts';
import { MACHINE_FILES } from './machine-files.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 60_000;

/** Name of the service. */
export const SERVICE_NAME = 'isthmus-agent.service';
/** Part of the package, and never written by a program. */
const OWNERS_SETTINGS = '/etc/default/isthmus-agent';
const UNIT_FILE = `etc/systemd/system/${SERVICE_NAME}`;

/** How systemd is reached; tests put in their own. */
export interface ServiceManager {
  /** Folder that stands for `/`. */
  readonly root: string;
  systemctl(args: readonly string[], signal: AbortSignal): Promise<void>;
}

/** The machine's own. */
export const systemd: ServiceManager = {
  root: '/',
  async systemctl(args, signal) {
    try {
      await run('systemctl', [...args], { timeout: TIMEOUT_MS, signal });
    } catch (cause) {
      signal.throwIfAborted();
      const said = cause instanceof Error && 'stderr' in cause ? String(cause.stderr).trim() : '';
      throw new MachineError(
        'state',
        `"systemctl ${args.join(' ')}" failed: ${said === '' ? reasonOf(cause) : said}`,
        { cause },
      );
    }
  },
};

/** Whether systemd runs this machine (`sd_booted(3)`). */
export function hasSystemd({ root }: Pick<ServiceManager, 'root'> = systemd): boolean {
  return existsSync(join(root, 'run/systemd/system'));
}

/** Writes the unit, and starts it now and at each boot; one that is as it should be goes on. */
export async function installService(
  command: readonly string[],
  options: {
    readonly stateDir: string;
    readonly manager?: ServiceManager;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { stateDir, manager = systemd, signal } = options;
  const path = join(manager.root, UNIT_FILE);
  const text = unitText(command, stateDir);
  if (!existsSync(path) || readFileSync(path, 'utf8') !== text) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text, { mode: 0o644 });
    await manager.systemctl(['daemon-reload'], signal);
  }
  await manager.systemctl(['enable', '--now', SERVICE_NAME], signal);
}

/** Stops the service and removes its unit; false: there is none. */
export async function removeService(options: {
  readonly manager?: ServiceManager;
  readonly signal: AbortSignal;
}): Promise<boolean> {
  const { manager = systemd, signal } = options;
  const path = join(manager.root, UNIT_FILE);
  if (!existsSync(path)) return false;
  // The file goes last: until then the command can be repeated.
  await manager.systemctl(['disable', '--now', SERVICE_NAME], signal);
  rmSync(path, { force: true });
  await manager.systemctl(['daemon-reload'], signal);
  return true;
}

/** Text of the unit. */
export function unitText(command: readonly string[], stateDir: string): string {
  return `[Unit]
Description=Isthmus agent: this machine as a member of a mesh of clusters
Wants=network-online.target
After=network-online.target

[Service]
EnvironmentFile=-${quoteSetting(join(stateDir, MACHINE_FILES.environment))}
# Of the machine's owner, such as ISTHMUS_LOG_LEVEL=debug.
EnvironmentFile=-${OWNERS_SETTINGS}
ExecStart=${command.map(quoteArgument).join(' ')}
Restart=always
RestartSec=2
# Maps and links are pinned: what is known goes on while the agent is started again.
RuntimeDirectory=isthmus
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
LimitMEMLOCK=infinity
UMask=0077

[Install]
WantedBy=multi-user.target
`;
}

/** A percent sign begins a specifier, a dollar a variable. */
function quoteArgument(text: string): string {
  const escaped = text.replaceAll('%', '%%').replaceAll('$', '$$$$');
  if (/^[A-Za-z0-9_@%+=:,./$-]+$/.test(escaped)) return escaped;
  return `"${escaped.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}

function quoteSetting(path: string): string {
  return path.replaceAll('%', '%%');
}
