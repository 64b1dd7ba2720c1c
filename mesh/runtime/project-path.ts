import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Folder that holds package.json: compiled files sit below it in `dist/`, what is not compiled beside it. */
const root = findRoot(dirname(fileURLToPath(import.meta.url)));

/** Absolute path of a file of the package that is not compiled (protocol files, test data, built eBPF objects). */
export function projectPath(relative: string): string {
  return join(root, relative);
}

function findRoot(start: string): string {
  for (let folder = start; folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json')) && existsSync(join(folder, 'mesh'))) {
      if (existsSync(join(folder, 'bpf')) || existsSync(join(folder, 'dist'))) return folder;
    }
  }
  throw new Error(`cannot find the package's root above ${start}: package.json is missing`);
}
