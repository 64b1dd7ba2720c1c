/**
 * A container of a rendered pod as a container runtime makes it, without one: a root of its own that is read-only where the pod says
 * so, of the host only what the pod mounts, namespaces for mounts, processes and cgroups, paths of the kernel hidden or read-only as
 * they are for every container that is not privileged, the seccomp profile, and exactly the user, capabilities and environment of the
 * manifest.
 */
import { chmodSync, chownSync, mkdirSync, readdirSync, realpathSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { run } from '../lab/command.ts';
import type { RenderedObject } from './helm.ts';

/** What a container is run with besides its manifest. */
export interface ContainedOptions {
  /** Program that stands for the seccomp profile of a runtime: `buildRefuseCalls`. */
  readonly refuseCalls: string;
  /** An empty folder of the test; the root is mounted over it, where nobody else sees it. */
  readonly root: string;
  /** Folders that a kubelet fills, by the volume's name: Secrets, ConfigMaps, tokens, `emptyDir`. */
  readonly volumes: ReadonlyMap<string, string>;
  /** Values of fields of the pod, by their paths, such as `spec.nodeName`. */
  readonly fields: Readonly<Record<string, string>>;
  /** The /etc/hosts that a kubelet writes for it. Default: that of this machine. */
  readonly hostsFile?: string;
  /** Folder with token, ca.crt and namespace of its service account, and where the API server is. Default: it has none. */
  readonly serviceAccount?: {
    readonly folder: string;
    readonly host: string;
    readonly port: number;
  };
}

/** Where the container has it. */
const REFUSE_CALLS = '/opt/isthmus/refuse-calls';

/** Where pods find their service account. */
const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';

/** What is in the image, by the command's name; the project lies in /opt/isthmus. */
const PROGRAMS: Readonly<Record<string, readonly string[]>> = {
  'clustermesh-agent': [process.execPath, '/opt/isthmus/dist/agent/main.js'],
  'clustermesh-apiserver': [process.execPath, '/opt/isthmus/dist/clustermesh-apiserver/main.js'],
  clustermesh: [process.execPath, '/opt/isthmus/dist/cli/main.js'],
};

/** Parts of the project that programs read at run time. */
const PARTS = ['dist', 'node_modules', 'package.json', 'mesh', 'clustermesh-apiserver'];

/** What container runtimes hide of the kernel, and what they make read-only, where a container is not privileged. */
const HIDDEN = ['kcore', 'keys', 'timer_list', 'acpi', 'scsi'];
const READ_ONLY = ['bus', 'fs', 'irq', 'sys', 'sysrq-trigger'];

const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * Waits for the container and passes SIGTERM on. The first process that it starts is the first of a process namespace, where the
 * container has one, which the kernel ends with it.
 */
const WAITING = `
sh -c "$0" sh "$@" &
child=$!
trap 'kill -TERM "$child"' TERM
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
exit "$code"
`;

/** Makes the root and goes into it. Arguments: root, whether it is read-only, whether it is privileged, mounts, \`--\`, the command. */
const ROOT = `
set -e
root=$1; readonly=$2; privileged=$3; shift 3
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr etc proc sys dev opt/isthmus var/lib run tmp
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
for name in usr etc; do
  mount --rbind "/$name" "$name"
  mount -o remount,bind,ro "$name"
done
mount -t proc proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom; do
  : >"dev/$name"
  mount --bind "/dev/$name" "dev/$name"
done
if [ "$privileged" = false ]; then
  for name in ${HIDDEN.join(' ')}; do
    if [ -d "proc/$name" ]; then mount -t tmpfs -o ro tmpfs "proc/$name"
    elif [ -e "proc/$name" ]; then mount --bind /dev/null "proc/$name"; fi
  done
  for name in ${READ_ONLY.join(' ')}; do
    if [ -e "proc/$name" ]; then
      mount --bind "proc/$name" "proc/$name"
      mount -o remount,bind,ro "proc/$name"
    fi
  done
  mount -o remount,bind,ro sys/fs/cgroup
  mount -o remount,bind,ro sys
fi
while [ "$1" != -- ]; do
  from=$1; to=$root$2; mode=$3; shift 3
  if [ -d "$from" ]; then mkdir -p "$to"; elif [ ! -e "$to" ]; then : >"$to"; fi
  mount --rbind "$from" "$to"
  [ "$mode" = rw ] || mount -o remount,bind,ro "$to"
done
shift
[ "$readonly" = false ] || mount -o remount,ro "$root"
pivot_root . .
umount -l .
cd /
exec "$@"
`;

/** The command line that runs a container of a pod. Throws where the manifest names what this does not know. */
export function containedCommand(
  pod: RenderedObject,
  container: RenderedObject,
  options: ContainedOptions,
): string[] {
  const { root, fields, serviceAccount } = options;
  const security = { ...pod.securityContext, ...container.securityContext };
  const isPrivileged = security.privileged === true;
  if (security.seccompProfile?.type !== 'RuntimeDefault') {
    throw new Error('a container without the seccomp profile RuntimeDefault');
  }
  const variables = (container.env ?? []).map((entry: RenderedObject) => {
    const path = entry.valueFrom?.fieldRef?.fieldPath;
    const value = path === undefined ? entry.value : fields[path];
    if (value === undefined) throw new Error(`variable ${entry.name}: the test has no ${path}`);
    return [entry.name, value];
  });
  const program = PROGRAMS[container.command[0]] ?? container.command;
  const values: Readonly<Record<string, string>> = Object.fromEntries(variables);
  const args = container.args.map((arg: string) =>
    arg.replace(/\$\((\w+)\)/g, (whole, name) => values[name] ?? whole),
  );
  mkdirSync(root, { recursive: true });
  return [
    ...['unshare', '--mount', '--cgroup', '--propagation=slave'],
    ...(pod.hostPID === true ? ['--'] : ['--pid', '--']),
    ...['sh', '-c', WAITING, ROOT],
    ...[root, String(security.readOnlyRootFilesystem === true), String(isPrivileged)],
    ...mountsOf(pod, container, options).flat(),
    '--',
    // Before its rights are taken, as runtimes do it: without them nobody may set a filter.
    REFUSE_CALLS,
    ...['setpriv', '--pdeathsig=KILL', ...rightsOf(security, isPrivileged), '--'],
    ...['env', '-i', `PATH=${SEARCH_PATH}`],
    ...variables.map(([name, value]: readonly string[]) => `${name}=${value}`),
    ...(serviceAccount === undefined
      ? []
      : [
          `KUBERNETES_SERVICE_HOST=${serviceAccount.host}`,
          `KUBERNETES_SERVICE_PORT=${serviceAccount.port}`,
        ]),
    ...program,
    ...args,
  ];
}

/** Builds the program by which a container has the seccomp profile RuntimeDefault; resolves to its path in a folder. */
export async function buildRefuseCalls(folder: string): Promise<string> {
  const program = join(folder, 'refuse-calls');
  const source = projectPath('e2e/chart/refuse-calls.c');
  await run(['gcc', '-std=gnu11', '-static', '-Wall', '-Wextra', '-Werror', '-o', program, source]);
  return program;
}

/** Flags of setpriv: root has on its next program what is in the bounding set, another user has nothing. */
function rightsOf(security: RenderedObject['securityContext'], isPrivileged: boolean): string[] {
  const { add = [], drop = [] } = security.capabilities ?? {};
  const isAlone = drop.includes('ALL');
  if (!isPrivileged && !isAlone)
    throw new Error('a container keeps the capabilities of its runtime');
  const kept = add.map((name: string) => `+${name.toLowerCase()}`);
  const user = security.runAsUser ?? 0;
  const group = security.runAsGroup ?? 0;
  return [
    ...(isPrivileged ? [] : [`--bounding-set=${['-all', ...kept].join()}`, '--inh-caps=-all']),
    ...(user === 0 ? [] : [`--reuid=${user}`, `--regid=${group}`, '--clear-groups']),
    ...(security.allowPrivilegeEscalation === false ? ['--no-new-privs'] : []),
  ];
}

type MountArguments = [from: string, to: string, mode: 'ro' | 'rw'];

/** Everything that is mounted below the root, outermost first. */
function mountsOf(
  pod: RenderedObject,
  container: RenderedObject,
  { volumes, hostsFile = '/etc/hosts', serviceAccount, refuseCalls }: ContainedOptions,
): MountArguments[] {
  const parts = PARTS.map(
    (name): MountArguments => [realpathSync(projectPath(name)), `/opt/isthmus/${name}`, 'ro'],
  );
  const own = (container.volumeMounts ?? []).map((mount: RenderedObject): MountArguments => {
    const volume = pod.volumes.find(({ name }: { name: string }) => name === mount.name);
    const from = volume?.hostPath === undefined ? volumes.get(mount.name) : hostPath(volume);
    if (from === undefined) throw new Error(`volume ${mount.name}: the test has no folder for it`);
    return [from, mount.mountPath, mount.readOnly === true ? 'ro' : 'rw'];
  });
  if (serviceAccount !== undefined) own.push([serviceAccount.folder, SERVICE_ACCOUNT, 'ro']);
  own.sort(([, a]: MountArguments, [, b]: MountArguments) => a.length - b.length);
  return [...parts, [refuseCalls, REFUSE_CALLS, 'ro'], [hostsFile, '/etc/hosts', 'rw'], ...own];
}

/** As the kubelet does it: made where the manifest says so, else it must be there. */
function hostPath({ hostPath: { path, type } }: RenderedObject): string {
  if (!isAbsolute(path)) throw new Error(`hostPath ${path} is not absolute`);
  if (type === 'DirectoryOrCreate') mkdirSync(path, { recursive: true, mode: 0o755 });
  return realpathSync(path);
}

/** What a kubelet does for `fsGroup`: files of Secrets are read by the group, volumes that can be written are the group's. */
export function giveToGroup(pod: RenderedObject, folderOf: (volume: string) => string): void {
  const group = pod.securityContext.fsGroup;
  for (const { name, secret, configMap } of pod.volumes) {
    const folder = folderOf(name);
    const mode = (secret ?? configMap)?.defaultMode;
    chownSync(folder, 0, group);
    chmodSync(folder, mode === undefined ? 0o2777 : 0o2755);
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      chownSync(path, 0, group);
      if (entry.isFile() && mode !== undefined) chmodSync(path, mode);
    }
  }
}
