/** Names that completion offers: asked of the agent of this machine, quickly or not at all. */
import { z } from 'zod';
import { askAgentLines } from './agent-client.ts';
import { DEFAULT_SOCKET } from './agent-sockets.ts';
import { CliError } from './cli-error.ts';
import type { NameKind } from './completion-tree.ts';

/** A person waits for it with a finger on the key. */
const TIMEOUT_MS = 1000;

const peerSchema = z.object({ name: z.string() });
const nodeSchema = z.object({ cluster: z.string() });
const serviceSchema = z.object({ namespace: z.string(), name: z.string() });

/** Names of a kind, sorted; none where no agent answers in time. */
export async function findNames(
  kind: NameKind,
  options: { readonly socketPath?: string; readonly signal: AbortSignal },
): Promise<string[]> {
  const { socketPath = DEFAULT_SOCKET, signal } = options;
  const rows = async (what: string): Promise<unknown[]> => {
    const found: unknown[] = [];
    const question = { path: `/v1/inspect/${what}`, timeoutMs: TIMEOUT_MS, signal };
    try {
      for await (const row of askAgentLines(socketPath, question)) found.push(row);
    } catch (error) {
      // Nobody wants to read why there is nothing to complete.
      if (!(error instanceof CliError)) throw error;
      return [];
    }
    return found.slice(1);
  };
  switch (kind) {
    case 'peers':
      return unique((await rows('peers')).map((row) => peerSchema.parse(row).name));
    case 'clusters':
      return unique((await rows('nodes')).map((row) => nodeSchema.parse(row).cluster));
    case 'services':
      return unique((await rows('services')).map((row) => serviceName(serviceSchema.parse(row))));
    case 'namespaces':
      return unique((await rows('services')).map((row) => serviceSchema.parse(row).namespace));
    case 'labs': {
      const { labNames } = await import('../e2e/lab/lab-state.ts');
      return unique(await labNames());
    }
    default:
      return kind satisfies never;
  }
}

function serviceName({ namespace, name }: z.infer<typeof serviceSchema>): string {
  return `${namespace}/${name}`;
}

function unique(names: readonly string[]): string[] {
  return [...new Set(names)].sort();
}
