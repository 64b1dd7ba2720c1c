/** Network namespaces of this machine, and the numbers by which this one knows them. */
import { execFile } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const TIMEOUT_MS = 10_000;
/** Where iproute2 looks for names; containerd and CRI-O keep theirs there, too. */
const NAMED = '/run/netns';
/** Where Docker keeps them. */
const DOCKER = '/run/docker/netns';

/**
 * Gives the namespaces at `paths` names 1, 2, and so on that nobody else sees, and lists which numbers they have. One that
 * went meanwhile keeps its name without a namespace behind it, and is not listed.
 */
const NUMBER_SCRIPT = `mkdir -p ${NAMED} && mount -t tmpfs isthmus ${NAMED} || exit 1
count=0
for path in "$@"; do
  count=$((count + 1))
  : >${NAMED}/$count && mount --bind "$path" ${NAMED}/$count
done
exec ip -json netns list-id`;

/**
 * Paths of network namespaces by the number that the agent's own one has for each: the number that a link tells as
 * `link_netnsid`. By name where they have one, since a name lives as long as the container, else by a process in them.
 * Looks for the unnamed ones only where one of `wanted` has no name.
 */
export async function findNetworkNamespaces(
  wanted: ReadonlySet<number>,
): Promise<ReadonlyMap<number, string>> {
  const found = new Map<number, string>();
  const named = await listIds(['ip', '-json', 'netns', 'list-id']);
  for (const { nsid, name } of named) if (wanted.has(nsid)) found.set(nsid, join(NAMED, name));
  const unnamed = found.size === wanted.size ? [] : listUnnamedNamespaces();
  if (unnamed.length === 0) return found;
  const script = ['--mount', '--propagation', 'private', 'sh', '-c', NUMBER_SCRIPT, 'sh'];
  for (const { nsid, name } of await listIds(['unshare', ...script, ...unnamed])) {
    const path = unnamed[Number(name) - 1];
    if (path !== undefined && wanted.has(nsid) && !found.has(nsid)) found.set(nsid, path);
  }
  return found;
}

/** Paths of the network namespaces that have no name for iproute2 and are not the agent's own, each once. */
export function listUnnamedNamespaces(
  options: {
    readonly named?: string;
    readonly folders?: readonly string[];
    readonly processes?: string;
  } = {},
): string[] {
  const { named = NAMED, folders = [DOCKER], processes = '/proc' } = options;
  const own = statSync('/proc/self/ns/net', { bigint: true });
  const seen = new Set([own.ino]);
  const considered = (path: string): string[] => {
    const found = statOf(path);
    // Every namespace is on one file system of the kernel's; a name without its namespace is an ordinary file.
    if (found === undefined || found.dev !== own.dev || seen.has(found.ino)) return [];
    seen.add(found.ino);
    return [path];
  };
  const pathsIn = (folder: string): string[] =>
    namesIn(folder).flatMap((name) => considered(join(folder, name)));
  pathsIn(named);
  return [
    ...folders.flatMap(pathsIn),
    ...namesIn(processes)
      .filter((name) => /^\d+$/.test(name))
      .flatMap((pid) => considered(join(processes, pid, 'ns', 'net'))),
  ];
}

/** Parses the output of `ip -json netns list-id`; what has no number or no name is left out. */
export function parseNamespaceIds(text: string): { nsid: number; name: string }[] {
  const parsed: unknown = JSON.parse(text.trim() === '' ? '[]' : text);
  if (!Array.isArray(parsed)) return [];
  return parsed.flatMap((entry: unknown) => {
    if (typeof entry !== 'object' || entry === null) return [];
    const { nsid, name } = entry as Readonly<Record<string, unknown>>;
    return typeof nsid === 'number' && typeof name === 'string' && name !== ''
      ? [{ nsid, name }]
      : [];
  });
}

async function listIds([command = '', ...args]: readonly string[]): Promise<
  { nsid: number; name: string }[]
> {
  const { stdout } = await run(command, args, { timeout: TIMEOUT_MS }).catch((cause: unknown) => {
    const reason = cause instanceof Error && 'stderr' in cause ? String(cause.stderr).trim() : '';
    throw new Error(`cannot list network namespaces: ${command}: ${reason || String(cause)}`, {
      cause,
    });
  });
  return parseNamespaceIds(stdout);
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    // A runtime that is not on this node.
    return [];
  }
}

function statOf(path: string): { readonly dev: bigint; readonly ino: bigint } | undefined {
  try {
    return statSync(path, { bigint: true, throwIfNoEntry: false });
  } catch {
    // A process of which the agent may know nothing.
    return undefined;
  }
}
