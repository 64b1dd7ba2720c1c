/** `clustermesh sysdump`: one archive with what an engineer needs to look at a mesh from afar, and nothing that lets anyone in. */
import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { Command } from 'commander';
import { z } from 'zod';
import { askAgent } from './agent-client.ts';
import { runAgentProgram } from './agent-program.ts';
import { type AgentFlags, agentSockets, DEFAULT_SOCKET } from './agent-sockets.ts';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import {
  addClusterOptions,
  type ClusterFlags,
  namesCluster,
  openClusterAccess,
} from './cluster-access.ts';
import { redactSecrets } from './secret-words.ts';

const ASK_TIMEOUT_MS = 20_000;
const PROGRAM_TIMEOUT_MS = 20_000;
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;
/** What is kept of one part, in characters: of a table its beginning, of a log its end. */
const MAX_PART_LENGTH = 16 * 1024 * 1024;
/** What an agent's socket tells, by the file that it goes to. */
const AGENT_PAGES = {
  'status.json': '/v1/status',
  'metrics.json': '/v1/metrics',
  'troubleshoot.json': '/v1/troubleshoot',
  'map-ipcache.json': '/v1/maps/ipcache',
  'map-endpoints.json': '/v1/maps/endpoints',
  'map-policy.json': '/v1/maps/policy',
  'map-services.json': '/v1/maps/services',
} as const;
/** Programs that say how the host is set up. */
const HOST_PROGRAMS = {
  'uname.txt': ['uname', '-a'],
  'addresses.txt': ['ip', 'address'],
  'links.txt': ['ip', '-details', 'link'],
  'routes.txt': ['ip', 'route', 'show', 'table', 'all'],
  'routes6.txt': ['ip', '-6', 'route', 'show', 'table', 'all'],
  'clock.txt': ['timedatectl'],
  'agent.log': ['journalctl', '--no-pager', '-u', 'clustermesh-agent', '-n', '5000'],
  'apiserver.log': ['journalctl', '--no-pager', '-u', 'clustermesh-apiserver', '-n', '5000'],
} as const;

interface Flags extends AgentFlags, ClusterFlags {
  readonly outputFile?: string;
}

/** One part of the dump: its text, or why there is none. */
type Part = { readonly name: string } & (
  | {
      readonly text: string;
      /** Characters that were left out; absent: none. */
      readonly leftOut?: number;
    }
  | { readonly missing: string }
);

/** Builds the command. */
export function sysdumpCommand(context: CliContext): Command {
  return addClusterOptions(new Command('sysdump'))
    .option('--socket-path <path...>', `sockets of the agents (default: ${DEFAULT_SOCKET})`)
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .option('--output-file <file>', 'archive to write (default: isthmus-sysdump-<time>.tar.gz)')
    .addHelpText(
      'after',
      `
The archive holds what agents and, with a cluster, its apiserver say: status, problems, maps, metrics; addresses and routes of
this host; logs where they can be reached. Keys, tokens and passwords are taken out; of each part 16 MiB are kept at most. What is missing or
was cut is listed in contents.json.

Examples:
  $ clustermesh sysdump
  $ sudo clustermesh sysdump --context alpha --output-file alpha.tar.gz
  $ sudo clustermesh sysdump --lab demo`,
    )
    .action(async (flags: Flags) => {
      const { signal, say, print, isWatched } = context;
      if (isWatched) say('gathering, this takes up to 20 s\n');
      const parts = [
        ...(await meshParts(flags, signal)),
        ...(await agentParts(flags, signal)),
        ...(await hostParts(flags, signal)),
      ];
      const time = new Date().toISOString().replace(/[:.]/g, '-').slice(0, 19);
      const file = resolve(flags.outputFile ?? `isthmus-sysdump-${time}.tar.gz`);
      await writeArchive(file, parts, signal);
      const missing = parts.filter((part) => 'missing' in part).length;
      print(
        `${file}: ${parts.length - missing} parts${missing === 0 ? '' : `, ${missing} could not be had (contents.json says why)`}\n`,
      );
    });
}

async function meshParts(flags: Flags, signal: AbortSignal): Promise<Part[]> {
  if (!namesCluster(flags)) return [];
  const methods = {
    'mesh-status.json': ['GetMeshStatus', {}],
    'mesh-troubleshoot.json': ['Troubleshoot', { peer: '' }],
  } as const;
  return Promise.all(
    Object.entries(methods).map(([name, [method, request]]) =>
      part(`mesh/${name}`, signal, async () => {
        using access = await openClusterAccess(flags, { signal });
        const answer = z.object({ json: z.string() });
        const { json } = await access.ask(method, request, {
          answer,
          timeoutMs: ASK_TIMEOUT_MS,
          signal,
        });
        return json;
      }),
    ),
  );
}

async function agentParts(flags: Flags, signal: AbortSignal): Promise<Part[]> {
  const sockets = await agentSockets(flags);
  const asked = sockets.flatMap((socket, index) =>
    Object.entries(AGENT_PAGES).map(([file, path]) =>
      part(`agents/${index + 1}/${file}`, signal, async () => {
        const answer = await askAgent(socket, { path, timeoutMs: ASK_TIMEOUT_MS, signal });
        return JSON.stringify(answer, null, 1);
      }),
    ),
  );
  return Promise.all(asked);
}

async function hostParts(flags: Flags, signal: AbortSignal): Promise<Part[]> {
  const features = part('host/features.json', signal, async () => {
    const { code, text, problem } = await runAgentProgram(['features', '--output=json']);
    if (text === '') throw new CliError('problem', `exit code ${code}: ${problem}`);
    return text;
  });
  const programs = Object.entries(HOST_PROGRAMS).map(([file, argv]) =>
    part(`host/${file}`, signal, () => output(argv, signal)),
  );
  const { context, kubeconfig, namespace = 'kube-system' } = flags;
  const kubectl = [
    'kubectl',
    ...(context === undefined ? [] : ['--context', context]),
    ...(kubeconfig === undefined ? [] : ['--kubeconfig', kubeconfig]),
    ...['--namespace', namespace],
  ];
  const pods =
    context === undefined
      ? []
      : ['clustermesh-apiserver', 'clustermesh-agent'].map((app) =>
          part(`kubernetes/${app}.log`, signal, () =>
            output(
              [
                ...kubectl,
                'logs',
                '-l',
                `k8s-app=${app}`,
                '--all-containers',
                '--prefix',
                '--tail=2000',
              ],
              signal,
            ),
          ),
        );
  return Promise.all([features, ...programs, ...pods]);
}

/** One part; that it cannot be had is part of the dump. Rejects only when `signal` aborts, and for faults of our own. */
async function part(name: string, signal: AbortSignal, make: () => Promise<string>): Promise<Part> {
  try {
    return cutPart(name, redactSecrets(await make()));
  } catch (error) {
    if (signal.aborted || !(error instanceof CliError)) throw error;
    return { name, missing: redactSecrets(error.message) };
  }
}

/** A node of a large mesh has tables of a gigabyte: the archive is to be sent to somebody. */
function cutPart(name: string, text: string): Part {
  const leftOut = text.length - MAX_PART_LENGTH;
  if (leftOut <= 0) return { name, text };
  const kept = name.endsWith('.log') ? text.slice(leftOut) : text.slice(0, MAX_PART_LENGTH);
  return { name, text: kept, leftOut };
}

async function writeArchive(
  file: string,
  parts: readonly Part[],
  signal: AbortSignal,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'isthmus-sysdump-'));
  try {
    const contents = parts.map((one) => {
      if (!('text' in one)) return one;
      const { text: _text, ...rest } = one;
      return rest;
    });
    const files: readonly { name: string; text: string }[] = [
      { name: 'contents.json', text: JSON.stringify(contents, null, 1) },
      ...parts.flatMap((one) => ('text' in one ? [one] : [])),
    ];
    for (const { name, text } of files) {
      const path = join(folder, 'sysdump', name);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, `${text.trimEnd()}\n`);
    }
    const draft = `${file}.${process.pid}`;
    await output(
      [
        'tar',
        '--create',
        '--gzip',
        '--owner=0',
        '--group=0',
        `--file=${draft}`,
        '--directory',
        folder,
        'sysdump',
      ],
      signal,
    );
    // Names and addresses of a whole mesh are for its owner to give away.
    await chmod(draft, 0o600);
    await rename(draft, file);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** What a program prints. Throws CliError `problem` when it cannot be run or fails. */
function output(argv: readonly string[], signal: AbortSignal): Promise<string> {
  const [program = '', ...args] = argv;
  const options = { timeout: PROGRAM_TIMEOUT_MS, maxBuffer: MAX_OUTPUT_BYTES, signal };
  return new Promise((done, fail) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      if (error === null) done(stdout);
      else
        fail(
          new CliError('problem', `${program}: ${stderr.trim() || error.message}`, {
            cause: error,
          }),
        );
    });
  });
}
