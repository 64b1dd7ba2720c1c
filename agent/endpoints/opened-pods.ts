import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type CniRequest, parseCniRequest } from './cni-request.ts';
import { EndpointStoreError } from './endpoint-error.ts';

/** A pod that was started while no agent answered, as the CNI plugin left word of it. */
export interface OpenedPod {
  /** Name of its file, by which it is forgotten. */
  readonly name: string;
  /** The request that the plugin would have made; undefined: the file cannot be read. */
  readonly request: CniRequest | undefined;
  /** Why it cannot be read; empty when it can. */
  readonly problem: string;
}

/** The folder in which the CNI plugin leaves word (`agent/cni/opened-pod.h`): `<socket>.opened`. */
export interface OpenedPods {
  /** Everything that is there now. Never throws: a folder that cannot be read is told as a problem of one entry. */
  list(): readonly OpenedPod[];
  /** Removes a file; that there is none is no error. Throws EndpointStoreError. */
  forget(name: string): void;
}

/** Name of the file of a container's interface. */
export function openedName(containerId: string, ifName: string): string {
  return `${containerId}:${ifName}`;
}

/** Opens the folder beside the agent's socket; it need not be there. */
export function openOpenedPods(socketPath: string): OpenedPods {
  const folder = `${socketPath}.opened`;
  return {
    list() {
      let names: string[];
      try {
        names = readdirSync(folder);
      } catch (error) {
        // No pod was ever started without an agent.
        if (hasCode(error, 'ENOENT')) return [];
        return [
          { name: '.', request: undefined, problem: `cannot read ${folder}: ${String(error)}` },
        ];
      }
      // A dot: the plugin is still writing it, or died over it.
      return names.filter((name) => !name.startsWith('.')).map((name) => readOpened(folder, name));
    },
    forget(name) {
      try {
        rmSync(join(folder, name), { force: true });
      } catch (cause) {
        throw new EndpointStoreError(`cannot remove ${join(folder, name)}: ${String(cause)}`, {
          cause,
        });
      }
    },
  };
}

function readOpened(folder: string, name: string): OpenedPod {
  const path = join(folder, name);
  try {
    const request = parseCniRequest(readFileSync(path, 'utf8'));
    if (request.command === 'ADD' && openedName(request.containerId, request.ifName) === name)
      return { name, request, problem: '' };
    throw new Error(`it holds ${request.command} of ${request.containerId}`);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { name, request: undefined, problem: `cannot use ${path}: ${reason}; remove it` };
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
