import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { release } from 'node:os';
import { projectPath } from '../../../mesh/runtime/project-path.ts';
import { openTempDir } from '../../../mesh/testing/temp-dir.ts';

/** A bpf file system of one test's own. */
export interface TestBpffs extends AsyncDisposable {
  readonly path: string;
}

/** Folder of the compiled eBPF objects. */
export const OBJECT_DIR = projectPath('dist/bpf');

/** Objects whose helpers are replaced by a map, for test runs. */
export const TEST_OBJECTS = ['mesh_endpoint.bpf.o', 'mesh_overlay.bpf.o', 'mesh_host.bpf.o'].map(
  (name) => `${OBJECT_DIR}/test/${name}`,
);

/** Why tests on the kernel cannot run here, or false. */
export function kernelSkipReason(): string | false {
  if (process.geteuid?.() !== 0) return 'needs root to load eBPF programs';
  if (!existsSync(`${OBJECT_DIR}/test`))
    return `needs the eBPF objects in ${OBJECT_DIR}: npm run build`;
  const [major = 0, minor = 0] = release().split('.').map(Number);
  if (major < 6 || (major === 6 && minor < 6)) return `needs Linux 6.6, this is ${release()}`;
  return false;
}

/** Mounts a bpffs in a new folder. Disposing unmounts it, which removes all pins, and the folder. */
export async function openTestBpffs(name = 'bpffs'): Promise<TestBpffs> {
  const dir = await openTempDir(name);
  execFileSync('mount', ['-t', 'bpf', 'bpf', dir.path]);
  return {
    path: dir.path,
    async [Symbol.asyncDispose]() {
      execFileSync('umount', [dir.path]);
      await dir[Symbol.asyncDispose]();
    },
  };
}
