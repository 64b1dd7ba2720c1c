/** `clustermesh connect`: two clusters become peers of each other. */
import { Command } from 'commander';
import { createBackoff } from '../mesh/runtime/backoff.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { CliError } from './cli-error.ts';
import {
  type ClusterAccess,
  destinationFlags,
  namesCluster,
  openClusterAccess,
} from './cluster-access.ts';
import {
  at,
  isUnreachable,
  type PairContext,
  type PairFlags,
  pairCommand,
  printChanges,
  type SideChange,
  withContexts,
} from './cluster-pair.ts';
import {
  applyPeer,
  exportPeer,
  IGNORABLE_FINDINGS,
  listPeers,
  type PeerAnswer,
  type PeerChangeAnswer,
  rollbackPeer,
} from './peer-client.ts';
import { isReady } from './peer-command.ts';
import { beginProgress } from './progress.ts';
import { collectTexts, toSeconds } from './vm-text.ts';

/** An apiserver that does not answer any more in the middle of it may be restarting: it is asked again for so long. */
const COMES_BACK_SECONDS = 30;

interface ConnectFlags extends PairFlags {
  readonly ignore: readonly string[];
  readonly wait: boolean;
  readonly timeout: number;
}

/** A cluster with what it prints of itself. */
interface Side {
  readonly access: ClusterAccess;
  readonly manifest: string;
  readonly nodeAddresses: readonly string[];
}

/** Builds the command. */
export function connectCommand(context: PairContext): Command {
  return pairCommand(new Command('connect'))
    .option(
      '--ignore <id...>',
      'findings not to mind, as for "clustermesh peer apply"',
      collectTexts,
      [],
    )
    .option('--no-wait', 'do not wait until both have read each other')
    .option('--timeout <duration>', 'how long to wait for that', toSeconds, 120)
    .addHelpText(
      'after',
      '\nExamples:\n  clustermesh connect kind-a kind-b --dry-run\n  clustermesh connect --registry 10.0.0.1:2381 --certificates a-admin \\\n    --destination-registry 10.1.0.1:2381 --destination-certificates b-admin',
    )
    .action((a: string | undefined, b: string | undefined, flags: ConnectFlags) =>
      connect(withContexts(flags, a, b), context),
    );
}

async function connect(flags: ConnectFlags, context: PairContext): Promise<void> {
  const { signal } = context;
  const { dryRun = false, output } = flags;
  const destination = destinationFlags(flags);
  if (!namesCluster(destination)) {
    throw new CliError(
      'usage',
      'say which other cluster: --destination-context, or --destination-registry with --destination-certificates',
    );
  }
  using a = await openClusterAccess(flags, { signal });
  using b = await openClusterAccess(destination, { signal });
  const sides = await readSides([a, b], context);
  // Both are looked at before the first is changed.
  const plans = await planBoth(sides, flags, context);
  const isRefused = plans.some(({ outcome }) => outcome === 'refused');
  if (dryRun || isRefused) {
    const [planA, planB] = plans;
    printChanges([at(a, planA), at(b, planB)], { output, dryRun: true, context });
    if (isRefused) context.setProblem();
    return;
  }
  const { changes, failure } = await applyBoth(sides, flags, context);
  printChanges(changes, { output, dryRun, context });
  if (failure !== undefined) throw failure;
  if (changes.some(({ outcome }) => outcome === 'refused')) {
    context.setProblem();
    return;
  }
  if (flags.wait) await waitForBoth([a, b], { plans, seconds: flags.timeout, context });
}

async function readSides(
  [a, b]: readonly [ClusterAccess, ClusterAccess],
  context: PairContext,
): Promise<readonly [Side, Side]> {
  const { signal } = context;
  using progress = beginProgress('asking both clusters who they are', context);
  const [exportA, exportB] = await Promise.all([exportPeer(a, signal), exportPeer(b, signal)]);
  progress[Symbol.dispose]();
  for (const [access, { notes }] of [[a, exportA] as const, [b, exportB] as const]) {
    for (const note of notes) context.say(`note: ${access.where}: ${note}\n`);
  }
  return [
    { access: a, manifest: exportA.manifest, nodeAddresses: exportA.node_addresses },
    { access: b, manifest: exportB.manifest, nodeAddresses: exportB.node_addresses },
  ];
}

async function planBoth(
  [a, b]: readonly [Side, Side],
  { ignore }: ConnectFlags,
  context: PairContext,
): Promise<readonly [PeerChangeAnswer, PeerChangeAnswer]> {
  using _progress = beginProgress('looking whether the two go together', context);
  const how = { dryRun: true, ignore, signal: context.signal };
  return await Promise.all([
    applyPeer(a.access, b.manifest, { ...how, nodeAddresses: b.nodeAddresses }),
    applyPeer(b.access, a.manifest, { ...how, nodeAddresses: a.nodeAddresses }),
  ]);
}

/** What was changed, and what then went wrong. What a side refuses that had agreed to the plan is not left half done. */
async function applyBoth(
  [a, b]: readonly [Side, Side],
  { ignore }: ConnectFlags,
  context: PairContext,
): Promise<{ readonly changes: readonly SideChange[]; readonly failure: unknown }> {
  const { signal } = context;
  const how = { dryRun: false, ignore, signal };
  const change = (side: Side, { manifest, nodeAddresses }: Side): Promise<PeerChangeAnswer> =>
    whenBack(() => applyPeer(side.access, manifest, { ...how, nodeAddresses }), { signal });
  using progress = beginProgress(`changing ${a.access.where}`, context);
  const first = await change(a, b);
  const changes = [at(a.access, first)];
  if (first.outcome === 'refused') return { changes, failure: undefined };
  progress.tell(`changing ${b.access.where}`);
  const second = await change(b, a).catch(toFailure);
  if ('outcome' in second) {
    changes.push(at(b.access, second));
    if (second.outcome !== 'refused') return { changes, failure: undefined };
  } else if (isUnreachable(second.failure)) {
    return { changes, failure: halfDone(second.failure, { first, a: a.access, b: b.access }) };
  }
  const failure = 'failure' in second ? second.failure : undefined;
  if (first.revision === 0) return { changes, failure };
  progress.tell(`undoing the change of ${a.access.where}`);
  const undo = { name: first.name, revision: first.revision };
  // Back to what was in force: how the network is now is no reason against it.
  const undone = await whenBack(
    () => rollbackPeer(a.access, undo, { ...how, ignore: IGNORABLE_FINDINGS }),
    { signal },
  ).catch(toFailure);
  if ('outcome' in undone) changes.push(at(a.access, undone));
  else context.say(`${a.access.where}: the change could not be undone: ${undone.failure}\n`);
  return { changes, failure };
}

function toFailure(failure: unknown): { readonly failure: unknown } {
  return { failure };
}

/** Whether the second side has been changed is not known: what is half done is said, and what to do. */
function halfDone(
  error: CliError,
  {
    first,
    a,
    b,
  }: {
    readonly first: PeerChangeAnswer;
    readonly a: ClusterAccess;
    readonly b: ClusterAccess;
  },
): CliError {
  const { name, revision } = first;
  const undo =
    revision === 0
      ? ''
      : `, or undo it there with "clustermesh peer rollback ${name} --revision ${revision}"`;
  return new CliError(
    error.code,
    `${error.message}; half connected: ${a.where} has ${name} for a peer, and whether ${b.where} was changed is not known: run the same command again when it is back${undo}`,
    { cause: error },
  );
}

/** Does something that may be done twice, again while nobody answers. */
async function whenBack<T>(
  attempt: () => Promise<T>,
  { signal }: { readonly signal: AbortSignal },
): Promise<T> {
  const deadline = systemClock.monotonic() + COMES_BACK_SECONDS * 1000;
  const backoff = createBackoff({ minMs: 200, maxMs: 2000 });
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!isUnreachable(error) || systemClock.monotonic() > deadline) throw error;
    }
    await systemClock.sleep(backoff.next(), signal);
  }
}

async function waitForBoth(
  [a, b]: readonly [ClusterAccess, ClusterAccess],
  options: {
    readonly plans: readonly [PeerChangeAnswer, PeerChangeAnswer];
    readonly seconds: number;
    readonly context: PairContext;
  },
): Promise<void> {
  const { plans, seconds, context } = options;
  const { signal } = context;
  using progress = beginProgress('waiting until both have read each other', context);
  await Promise.all([
    waitUntilReady(a, plans[0].name, { seconds, signal }),
    waitUntilReady(b, plans[1].name, { seconds, signal }),
  ]);
  progress[Symbol.dispose]();
  context.say('both clusters have read each other\n');
}

async function waitUntilReady(
  access: ClusterAccess,
  name: string,
  { seconds, signal }: { readonly seconds: number; readonly signal: AbortSignal },
): Promise<void> {
  const deadline = systemClock.monotonic() + seconds * 1000;
  const backoff = createBackoff({ minMs: 200, maxMs: 2000 });
  for (;;) {
    const seen = await look(access, name, signal);
    if (seen.kind === 'seen' && seen.peer !== undefined && isReady(seen.peer)) return;
    if (systemClock.monotonic() > deadline) {
      throw new CliError(
        'timeout',
        `${access.where} has not read ${name} within ${seconds} s: ${reasonOf(seen)}; next: clustermesh troubleshoot ${name}`,
      );
    }
    await systemClock.sleep(backoff.next(), signal);
  }
}

type Look =
  | { readonly kind: 'seen'; readonly peer: PeerAnswer | undefined }
  | { readonly kind: 'silent'; readonly why: string };

async function look(access: ClusterAccess, name: string, signal: AbortSignal): Promise<Look> {
  try {
    const peers = await listPeers(access, signal);
    return { kind: 'seen', peer: peers.find((one) => one.name === name) };
  } catch (error) {
    // An apiserver that restarts meanwhile is waited for as well.
    if (!isUnreachable(error)) throw error;
    return { kind: 'silent', why: error.message };
  }
}

function reasonOf(look: Look): string {
  if (look.kind === 'silent') return look.why;
  return look.peer?.conditions.find(({ type }) => type === 'Ready')?.message ?? 'it is gone';
}
