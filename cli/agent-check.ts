/** What `clustermesh check` asks the agent of this node. */
import { z } from 'zod';
import { type Check, decodeChecks } from '../mesh/diagnosis/check.ts';
import { type Problem, problemOf } from '../mesh/diagnosis/problem.ts';
import { packageVersion } from '../mesh/runtime/package-version.ts';
import { askAgent } from './agent-client.ts';
import { CliError } from './cli-error.ts';

const ASK_TIMEOUT_MS = 10_000;
const SUBJECT = 'this host';
const statusSchema = z.looseObject({ version: z.string() });

/** Asks. Rejects only when `signal` aborts. */
export async function checkAgent(socketPath: string, signal: AbortSignal): Promise<Check[]> {
  const ask = (path: string): Promise<unknown> =>
    askAgent(socketPath, { path, timeoutMs: ASK_TIMEOUT_MS, signal });
  const line = (title: string, problem?: Problem): Check => ({
    section: 'agent',
    title,
    ...(problem === undefined ? {} : { problem }),
  });
  const reach = 'the agent answers on its socket';
  try {
    const { version } = statusSchema.parse(await ask('/v1/status'));
    const skew = versionProblem(version);
    const known = [line(reach), line('agent and command are of one version', skew)];
    // One of another version is asked by its own command.
    if (skew !== undefined) return known;
    return [...known, ...decodeChecks(JSON.stringify(await ask('/v1/check')))];
  } catch (error) {
    if (signal.aborted || !(error instanceof CliError)) throw error;
    return [
      line(reach, problemOf('agent-unreachable', { subject: SUBJECT, cause: error.message })),
    ];
  }
}

function versionProblem(version: string): Problem | undefined {
  const own = packageVersion();
  if (version === own) return undefined;
  const cause = `the agent is of version ${version}, this command of ${own}: let the agent's own command check the rest`;
  return problemOf('version-skew', { subject: SUBJECT, cause });
}
