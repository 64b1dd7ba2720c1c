/** The CNI plugin on a node: its program, and its place in the configuration that the container runtime reads. */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, extname, join } from 'node:path';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { watchDirectory } from '../../mesh/runtime/watch-directory.ts';
import { chainPlugin, PLUGIN_TYPE, type PluginSettings, unchainPlugin } from './conf-list.ts';
import { CniInstallError } from './install-error.ts';

/** Endings of the files that container runtimes read (libcni's ConfFiles); the first by name counts. */
const CONF_ENDINGS = ['.conf', '.conflist', '.json'];
/** What a file with a single plugin, which cannot be chained behind, is called while our list stands in for it. */
const SAVED_ENDING = '.before-isthmus';
/** Between two repairs: something that undoes each one must not keep the node busy. */
const REPAIR_PAUSE_MS = 1000;
/** Between two attempts while something is in the way. */
const RETRY_MS = 5000;

/** Where things are on a node. */
export interface CniFolders {
  /** Configuration files of the container runtime, often /etc/cni/net.d. */
  readonly confDir: string;
  /** Programs of CNI plugins, often /opt/cni/bin. */
  readonly binDir: string;
}

/** What is needed to install. */
export interface CniInstallOptions extends CniFolders {
  /** The program to be copied. */
  readonly pluginFile: string;
  readonly settings: PluginSettings;
}

/** Keeps the plugin where it belongs. */
export interface CniInstallation {
  /** Installs, and repairs whenever the folder of configurations changes, until `signal` aborts. Leaves it installed. */
  run(signal: AbortSignal): Promise<void>;
  /** Why it is not installed, a sentence each. */
  problems(): readonly string[];
}

/** Makes an installation that has not begun. */
export function createCniInstallation(
  options: CniInstallOptions & { readonly clock: Clock; readonly logger: Logger },
): CniInstallation {
  const { confDir, clock, logger } = options;
  let problem: string | undefined;
  const repair = (): boolean => {
    try {
      const changed = installCni(options);
      problem = undefined;
      if (changed.length > 0) logger.info({ files: changed }, 'CNI plugin installed');
      return changed.length > 0;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const text = `clustermesh-cni is not in the CNI configuration, pods that are started now are found late: ${reason}`;
      if (problem !== text) logger.warn({ err: error }, 'CNI plugin cannot be installed');
      problem = text;
      return false;
    }
  };
  return {
    async run(signal) {
      // A folder that is not there yet is told at once, not only when it comes.
      repair();
      const following = async (): Promise<void> => {
        for await (const _ of watchDirectory(confDir, { signal, clock })) {
          if (repair()) await clock.sleep(REPAIR_PAUSE_MS, signal).catch(() => undefined);
        }
      };
      // What was in the way may go without a change of any file: an owner, a file system that was full.
      const tryingAgain = async (): Promise<void> => {
        while (!signal.aborted) {
          await clock.sleep(RETRY_MS, signal).catch(() => undefined);
          if (!signal.aborted && problem !== undefined) repair();
        }
      };
      await Promise.all([following(), tryingAgain()]);
    },
    problems: () => (problem === undefined ? [] : [problem]),
  };
}

/**
 * Installs the program and then chains it behind the plugins of the configuration that the runtime uses, each by renaming a
 * whole file into place. Returns the files that were changed: none when all is as it should be. Throws CniInstallError.
 */
export function installCni(options: CniInstallOptions): string[] {
  const { confDir, binDir, pluginFile, settings } = options;
  return guarded(`install clustermesh-cni in ${binDir} and ${confDir}`, () => {
    const changed: string[] = [];
    const [name] = confFiles(confDir);
    if (name === undefined) {
      throw new CniInstallError(
        'no-conf',
        `no CNI configuration is in ${confDir}: install the cluster's CNI, or say where its files are with --cni-conf-dir`,
      );
    }
    const path = join(confDir, name);
    const text = chainPlugin(readFileSync(path, 'utf8'), path, settings);
    const program = join(binDir, PLUGIN_TYPE);
    const bytes = readFileSync(pluginFile);
    // The program first: a configuration that names a program which is not there fails every pod.
    if (!existsSync(program) || !readFileSync(program).equals(bytes)) {
      mkdirSync(binDir, { recursive: true });
      replaceFile(program, bytes, { mode: 0o755 });
      changed.push(program);
    }
    if (text === undefined) return changed;
    const target = extname(name) === '.conflist' ? path : listPathOf(path);
    replaceFile(target, text, statSync(path));
    changed.push(target);
    // Last: until then the runtime takes the old file, which comes first by name.
    if (target !== path) renameSync(path, `${path}${SAVED_ENDING}`);
    return changed;
  });
}

/**
 * Takes the plugin out of every configuration and then removes the program; files that were set aside come back. Returns the
 * files that were changed. Throws CniInstallError.
 */
export function uninstallCni({ confDir, binDir }: CniFolders): string[] {
  return guarded(`remove clustermesh-cni from ${confDir} and ${binDir}`, () => {
    const changed: string[] = [];
    const names = existsSync(confDir) ? confFiles(confDir) : [];
    for (const name of names) {
      const path = join(confDir, name);
      const saved = savedPathOf(path);
      const text = readFileSync(path, 'utf8');
      // What is not ours need not even be readable.
      const without = text.includes(PLUGIN_TYPE) ? unchainPlugin(text, path) : undefined;
      if (without === undefined) continue;
      changed.push(path);
      if (saved === undefined) {
        replaceFile(path, without, statSync(path));
        continue;
      }
      renameSync(saved, saved.slice(0, -SAVED_ENDING.length));
      rmSync(path);
    }
    const program = join(binDir, PLUGIN_TYPE);
    if (existsSync(program)) {
      rmSync(program);
      changed.push(program);
    }
    return changed;
  });
}

function confFiles(confDir: string): string[] {
  return readdirSync(confDir)
    .filter((name) => CONF_ENDINGS.includes(extname(name)))
    .sort();
}

/** List that stands in for a file with a single plugin. */
function listPathOf(path: string): string {
  return `${path.slice(0, -extname(path).length)}.conflist`;
}

/** The file that a list stands in for, when there is one. */
function savedPathOf(listPath: string): string | undefined {
  return ['.conf', '.json']
    .map((ending) => `${listPath.slice(0, -extname(listPath).length)}${ending}${SAVED_ENDING}`)
    .find((path) => existsSync(path));
}

/** Puts a whole file into place. The draft's name is one that no runtime reads. */
function replaceFile(
  path: string,
  content: string | Buffer,
  like: { readonly mode: number; readonly uid?: number; readonly gid?: number },
): void {
  const draft = join(path, '..', `.${basename(path)}.isthmus`);
  try {
    writeFileSync(draft, content, { flush: true });
    chmodSync(draft, like.mode & 0o777);
    if (like.uid !== undefined && like.gid !== undefined) chownSync(draft, like.uid, like.gid);
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}

function guarded<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (cause instanceof CniInstallError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CniInstallError('io', `cannot ${what}: ${reason}${adviceOf(cause)}`, { cause });
  }
}

/** In a container root is refused where folders are another user's: the agent has no capability to go over that. */
function adviceOf(cause: unknown): string {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  return code === 'EACCES' || code === 'EPERM'
    ? ': root has to own the folders and files of CNI; else give the agent the capabilities DAC_OVERRIDE and CHOWN'
    : '';
}
