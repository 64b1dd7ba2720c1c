/** CNI configuration files as text: our plugin put behind the others, and taken out again. Touches no file. */
import { isDeepStrictEqual } from 'node:util';
import { CniInstallError } from './install-error.ts';

/** Name of our plugin's program, and its `type`. */
export const PLUGIN_TYPE = 'clustermesh-cni';

/** Versions of CNI that the plugin speaks: `versions` in agent/cni/clustermesh-cni.c. */
const CNI_VERSIONS: readonly string[] = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'];

/** What becomes of a pod that is started while no agent answers. */
export const AGENT_DOWN_POLICIES = ['wait', 'open'] as const;

/** What the plugin is told by the configuration. */
export interface PluginSettings {
  readonly socketPath: string;
  /** `wait`: its start waits and then fails; `open`: it starts without the mesh, and is taken over later. */
  readonly agentDown: (typeof AGENT_DOWN_POLICIES)[number];
  /** How long its start waits for an agent, in milliseconds. */
  readonly agentDownTimeoutMs: number;
}

type Fields = Readonly<Record<string, unknown>>;

/**
 * The list of plugins of a file's text with ours in it, behind the others; everything else is kept. A file with one plugin
 * becomes a list. One of ours that is there stays in its place, since others may have to be last. Undefined: it is as it
 * should be. Throws CniInstallError `bad-conf` naming the file.
 */
export function chainPlugin(
  text: string,
  file: string,
  settings: PluginSettings,
): string | undefined {
  const conf = parseConf(text, file);
  const list = asList(conf, file);
  checkVersion(list, file);
  const ours = pluginObject(settings);
  const others = list.plugins.filter((plugin) => !isOurs(plugin));
  if (others.length === 0) {
    throw new CniInstallError(
      'bad-conf',
      `cannot chain behind ${file}: it has no plugin but ours; the cluster's CNI belongs in front of it`,
    );
  }
  const place = list.plugins.findIndex(isOurs);
  // In front of all others there is no interface yet.
  const at = place < 1 ? others.length : place;
  const plugins = [...others.slice(0, at), ours, ...others.slice(at)];
  const chained = { ...list, plugins };
  return isDeepStrictEqual(chained, conf) ? undefined : print(chained);
}

/** The text without our plugin; undefined: it has none. Throws CniInstallError `bad-conf`. */
export function unchainPlugin(text: string, file: string): string | undefined {
  const conf = parseConf(text, file);
  if (!Array.isArray(conf.plugins)) return undefined;
  const plugins = conf.plugins.filter((plugin) => !isOurs(plugin));
  return plugins.length === conf.plugins.length ? undefined : print({ ...conf, plugins });
}

function pluginObject({ socketPath, agentDown, agentDownTimeoutMs }: PluginSettings): Fields {
  const seconds = agentDownTimeoutMs / 1000;
  return {
    type: PLUGIN_TYPE,
    socketPath,
    agentDown,
    agentDownTimeout: Number.isInteger(seconds) ? `${seconds}s` : `${agentDownTimeoutMs}ms`,
  };
}

function parseConf(text: string, file: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new CniInstallError('bad-conf', `cannot read ${file}: it is not JSON`, { cause });
  }
  if (isObject(value)) return value;
  throw new CniInstallError('bad-conf', `cannot read ${file}: expected a JSON object`);
}

function asList(conf: Fields, file: string): Fields & { readonly plugins: readonly Fields[] } {
  const { plugins } = conf;
  if (Array.isArray(plugins) && plugins.every(isObject)) return { ...conf, plugins };
  if (plugins === undefined && typeof conf.type === 'string') {
    const { cniVersion, name, ...plugin } = conf;
    return { cniVersion, name, plugins: [plugin] };
  }
  throw new CniInstallError(
    'bad-conf',
    `cannot chain behind ${file}: expected "plugins", a list of objects, or the "type" of a single plugin`,
  );
}

function checkVersion(list: Fields, file: string): void {
  const offered = [list.cniVersion, ...(Array.isArray(list.cniVersions) ? list.cniVersions : [])];
  if (offered.some((version) => CNI_VERSIONS.includes(String(version)))) return;
  throw new CniInstallError(
    'bad-conf',
    `cannot chain behind ${file}: its cniVersion is ${JSON.stringify(list.cniVersion)}, expected one of ${CNI_VERSIONS.join(', ')}`,
  );
}

function isOurs(plugin: unknown): boolean {
  return isObject(plugin) && plugin.type === PLUGIN_TYPE;
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function print(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
