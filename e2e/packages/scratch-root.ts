/** A root file system with nothing in it but what a test puts there, to show that a package needs nothing else. */
import { chmod, cp, mkdir, readFile, realpath, rm, symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { run } from '../lab/command.ts';

/** Such a root. Disposing removes it; nothing is mounted in it but by the programs that run there. */
export interface ScratchRoot extends AsyncDisposable {
  readonly path: string;
  /** Path outside of something inside. */
  file(path: string): string;
  /** Copies programs from here, under the same paths, with the shared libraries that they need. */
  addPrograms(names: readonly string[]): Promise<void>;
  /** The command that runs a program in there. */
  inside(argv: readonly string[], options?: InsideOptions): string[];
}

/** What a program sees besides the root and the kernel's own file systems. */
export interface InsideOptions {
  /** Folders from here that it sees under the same paths, and may write. */
  readonly folders?: readonly string[];
  /** A network namespace and a file system for eBPF pins of its own. */
  readonly isAlone?: boolean;
  /** Nothing in the root can be written, but what `folders` names, and /tmp. */
  readonly isReadOnly?: boolean;
  /** User and group. Default: root. */
  readonly userId?: number;
}

/** Mounts that end with the program, then the program. Folders end at `--`. */
const SCRIPT = `
set -e
root=$1; alone=$2; readonly=$3; user=$4; shift 4
mount --rbind "$root" "$root"
for system in proc sys dev; do
  mkdir -p "$root/$system"
  mount --rbind "/$system" "$root/$system"
done
[ "$readonly" = false ] || mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
[ "$alone" = false ] || mount -t bpf bpf "$root/sys/fs/bpf"
while [ "$1" != -- ]; do
  mkdir -p "$root$1"
  mount --rbind "$1" "$root$1"
  shift
done
shift
[ "$readonly" = false ] || mount -o remount,bind,ro "$root"
[ "$user" = 0 ] || exec chroot --userspec="$user:$user" --groups= "$root" "$@"
exec chroot "$root" "$@"
`;

/** Makes an empty one, with the folders that every system has. */
export async function openScratchRoot(): Promise<ScratchRoot> {
  const dir = await openTempDir('root');
  const path = await realpath(dir.path);
  // As any root: other users must get through.
  await chmod(path, 0o755);
  const file = (inner: string): string => join(path, inner);
  for (const folder of ['usr/bin', 'usr/sbin', 'usr/lib', 'usr/lib64', 'etc', 'tmp', 'run']) {
    await mkdir(file(folder), { recursive: true });
  }
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) await symlink(`usr/${name}`, file(name));
  const copy = async (from: string): Promise<void> => {
    // A library is asked for by a name that is a link here.
    const folder = await realpath(dirname(from));
    const target = file(join(folder, basename(from)));
    await mkdir(dirname(target), { recursive: true });
    await cp(await realpath(from), target, { force: true });
  };
  return {
    path,
    file,
    async addPrograms(names) {
      for (const name of names) {
        const program = (await run(['which', name])).trim();
        await copy(program);
        const head = (await readFile(program)).subarray(0, 4).toString('latin1');
        if (head !== '\x7fELF') continue;
        const needed = (await run(['ldd', program])).match(/\/\S+\.so[.\d]*/g) ?? [];
        for (const library of needed) await copy(library);
      }
    },
    inside(argv, options = {}) {
      const { folders = [], isAlone = false, isReadOnly = false, userId = 0 } = options;
      const apart = isAlone ? ['--net'] : [];
      const settings = [path, String(isAlone), String(isReadOnly), String(userId)];
      return [
        ...['unshare', '--mount', '--propagation=private', ...apart, 'sh', '-c', SCRIPT, 'sh'],
        ...[...settings, ...folders, '--', ...argv],
      ];
    },
    [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose](),
  };
}

/** Adds what any Linux for glibc has: the C and C++ libraries, a shell and two of its tools. */
export async function addBasics(root: ScratchRoot): Promise<void> {
  await root.addPrograms(['sh', 'dirname', 'readlink', process.execPath]);
  // Of Node only the libraries were wanted.
  await rm(root.file(process.execPath));
}
