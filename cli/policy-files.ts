/** Files that the commands about policies read. */
import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createFlowReader, type RecordedFlows } from '../agent/policy/simulate-flows.ts';
import type { Finding, ManifestFile } from '../agent/policy/validate-manifest.ts';
import { CliError } from './cli-error.ts';
import { readLines } from './lines.ts';

/** Files of a folder of manifests, as the watched directory takes them. */
const MANIFEST = /\.(ya?ml|json)$/;
/** No manifest of a policy is as large. */
const MAX_FILE_BYTES = 64 * 1024 * 1024;
/** An event has some packet bytes and labels in it. */
const MAX_LINE_BYTES = 1024 * 1024;

/** Reads YAML files. Throws CliError `usage` naming the one that cannot be read. */
export function readManifestFiles(names: readonly string[]): Promise<ManifestFile[]> {
  return Promise.all(
    names.map(async (name) => {
      try {
        const { size } = await stat(name);
        if (size > MAX_FILE_BYTES)
          throw new Error(`${size} bytes, expected at most ${MAX_FILE_BYTES}`);
        return { name, text: await readFile(name, 'utf8') };
      } catch (cause) {
        throw cannotRead(name, cause);
      }
    }),
  );
}

/** Reads files, and of folders the manifests in them, by name. Throws CliError `usage` naming what cannot be read. */
export async function readPolicyFolders(paths: readonly string[]): Promise<ManifestFile[]> {
  const names: string[] = [];
  for (const path of paths) {
    try {
      if (!(await stat(path)).isDirectory()) names.push(path);
      else {
        const found = (await readdir(path)).filter((name) => MANIFEST.test(name)).sort();
        names.push(...found.map((name) => join(path, name)));
      }
    } catch (cause) {
      throw cannotRead(path, cause);
    }
  }
  return readManifestFiles(names);
}

/** Reads recorded flows. Throws CliError `usage` for a file that cannot be read or holds no events. */
export async function readFlows(
  names: readonly string[],
  say: (text: string) => void,
): Promise<RecordedFlows['flows']> {
  const flows = [];
  for (const name of names) {
    const reader = createFlowReader();
    try {
      for await (const { number, bytes } of readLines(createReadStream(name), MAX_LINE_BYTES)) {
        if (bytes !== undefined) reader.add(number, bytes.toString('utf8'));
      }
    } catch (cause) {
      throw cannotRead(name, cause);
    }
    const { flows: found, unreadable } = reader.result();
    const [first] = unreadable;
    if (first !== undefined && found.length === 0) {
      throw new CliError('usage', `${name}:${first.line}: ${first.why}`);
    }
    if (first !== undefined) {
      say(`clustermesh: ${name}:${first.line}: ${first.why} (${unreadable.length} such lines)\n`);
    }
    flows.push(...found);
  }
  return flows;
}

/** `web.yaml:12: CiliumNetworkPolicy demo/web: …`, as compilers write it. */
export function findingLine({ file, line, object, message, severity }: Finding): string {
  const about = object === undefined ? '' : `${object}: `;
  return `${file}:${line}: ${severity === 'note' ? 'note: ' : ''}${about}${message}`;
}

function cannotRead(name: string, cause: unknown): CliError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new CliError('usage', `cannot read ${name}: ${why}`, { cause });
}
