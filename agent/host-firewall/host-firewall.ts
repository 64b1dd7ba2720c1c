/**
 * Host policy of a machine: `default` judges what has a mesh identity at its other end, `full` everything. `full` is tried
 * out first, and taken back unless somebody confirms it in time. Only what was confirmed outlives the process; while it is
 * tried out the kernel knows the end as well, and needs nobody to keep it.
 */
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { FirewallDevices } from '../datapath/devices.ts';
import type { DatapathFirewall } from '../datapath/firewall.ts';
import { reasonOf } from '../machine/machine-error.ts';
import { FirewallError } from './firewall-error.ts';
import { removeFirewallFile, type StoredFirewall, writeFirewallFile } from './firewall-file.ts';
import type { FirewallDescription, FirewallReport, JudgedHost } from './firewall-report.ts';
import type { PlaceFinder } from './fixed-places.ts';
import { callText, FIXED_RULES, type FixedPlaces, fixedCalls } from './fixed-rules.ts';

/** How long a trial lasts unless somebody says otherwise, in seconds, and the bounds of what may be said. */
export const DEFAULT_CONFIRM_SECONDS = 60;
export const FEWEST_CONFIRM_SECONDS = 5;
export const MOST_CONFIRM_SECONDS = 3600;

const FOR_EVER_MS = 2 ** 31 - 1;
const LOOK_EACH_MS = 10_000;
const NANOSECONDS_EACH = 1_000_000n;

/** What an operator asks for. */
export interface Trial {
  readonly adminPorts: readonly number[];
  readonly confirmWithinSeconds: number;
}

/** Switches host policy. Methods throw FirewallError; after `disk` of `disable` the machine is in `default` for now. */
export interface HostFirewall {
  enable(trial: Trial): Promise<void>;
  confirm(): Promise<void>;
  disable(): Promise<void>;
  report(): FirewallReport;
  /** The report, and what passes whatever policies say. */
  describe(): FirewallDescription;
  /** What a person should know, a sentence each. */
  problems(): readonly string[];
  /** Keeps what is switched on; ends a trial in time, and when `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** What it works on. */
export interface HostFirewallOptions {
  readonly kernel: DatapathFirewall;
  readonly stateDir: string;
  /** As the file was before the datapath was opened, which has been opened accordingly. */
  readonly stored: StoredFirewall;
  readonly places: PlaceFinder;
  /** Says each time that interfaces may have changed. */
  readonly watchLinks: (signal: AbortSignal) => AsyncIterable<unknown>;
  /** What policies make of the host; undefined: they are not known yet. */
  readonly host: () => JudgedHost | undefined;
  /** Nanoseconds of CLOCK_MONOTONIC. */
  readonly kernelNow: () => bigint;
  readonly clock: Clock;
  readonly logger: Logger;
}

type State =
  | { readonly kind: 'default' }
  | { readonly kind: 'trial'; readonly adminPorts: readonly number[]; readonly endsAt: number }
  | { readonly kind: 'full'; readonly adminPorts: readonly number[]; readonly confirmedAt: string };

/** Takes over the state that the datapath was opened with. */
export function createHostFirewall(options: HostFirewallOptions): HostFirewall {
  const { kernel, stateDir, stored, places, clock, logger } = options;
  const bell = createBell();
  let state: State =
    stored.kind === 'confirmed' ? { kind: 'full', ...stored.confirmed } : { kind: 'default' };
  let devices: FirewallDevices = { judged: [], unjudged: [] };
  /** What the kernel was told last. */
  let openPlaces: FixedPlaces = { adminPorts: [], servers: [], resolvers: [] };
  /** Why the mode is not what somebody may think it is; undefined: there is no such reason. */
  let note = noteOfStart(options);
  /** Why what is on cannot be kept up. */
  let failure: string | undefined;
  let life = new AbortController();
  let last: Promise<unknown> = Promise.resolve();

  if (note !== undefined) logger.error({ reason: note }, 'host policy is default');
  else if (state.kind === 'full') logger.info(state, 'host policy is full');

  /** One after the other. */
  const inTurn = <Result>(work: () => Promise<Result>): Promise<Result> => {
    const mine = last.then(work);
    last = mine.catch(() => undefined);
    return mine;
  };

  const setPlaces = (found: FixedPlaces): void => {
    kernel.setOpen(fixedCalls(found));
    openPlaces = found;
  };

  const switchOff = (): void => {
    kernel.switchOff();
    state = { kind: 'default' };
    devices = { judged: [], unjudged: [] };
    failure = undefined;
    life.abort();
    life = new AbortController();
  };

  const takeBack = (reason: string): void => {
    switchOff();
    note = `host policy full was taken back: ${reason}; the machine is in default mode, which judges only what has a mesh identity at its other end`;
    logger.error({ reason }, 'host policy full was taken back, it is default again');
  };

  const endTrial = async (signal: AbortSignal): Promise<void> => {
    const trial = state;
    if (trial.kind !== 'trial') return;
    // A timer may be early by less than a millisecond.
    while (!signal.aborted && clock.monotonic() < trial.endsAt) {
      await clock.sleep(Math.ceil(trial.endsAt - clock.monotonic()), signal).catch(() => undefined);
    }
    await inTurn(async () => {
      if (state === trial && clock.monotonic() >= trial.endsAt) {
        takeBack('nobody confirmed it in time');
      }
    });
  };

  /** Does it while the firewall is on. */
  const keepUp = async (work: (adminPorts: readonly number[]) => unknown): Promise<void> => {
    try {
      await inTurn(async () => {
        if (state.kind !== 'default') await work(state.adminPorts);
      });
      failure = undefined;
    } catch (error) {
      const text = reasonOf(error);
      if (text !== failure) logger.error({ err: error }, 'the firewall cannot be kept up');
      failure = text;
    }
  };

  const followDevices = async (signal: AbortSignal): Promise<void> => {
    for await (const _ of options.watchLinks(signal)) {
      if (signal.aborted) return;
      await keepUp(async () => {
        devices = await kernel.follow();
      });
    }
  };

  const followPlaces = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      const found = await places.look();
      await keepUp((adminPorts) => setPlaces({ adminPorts, ...found }));
      await clock.sleep(LOOK_EACH_MS, signal).catch(() => undefined);
    }
  };

  const report = (): FirewallReport => ({
    mode: state.kind,
    endsInMs: state.kind === 'trial' ? Math.max(0, state.endsAt - clock.monotonic()) : undefined,
    confirmedAt: state.kind === 'full' ? state.confirmedAt : undefined,
    adminPorts: state.kind === 'default' ? [] : state.adminPorts,
    devices: devices.judged,
    host: options.host(),
    problems: problems(),
  });

  return {
    enable: ({ adminPorts, confirmWithinSeconds }) =>
      inTurn(async () => {
        if (state.kind !== 'default') throw alreadyOn(state);
        if (options.host() === undefined) {
          throw new FirewallError(
            'not-ready',
            "the agent has not read its cluster's policies yet, and would judge by none: try again when clustermesh status says that it is ready",
            { retryable: true },
          );
        }
        const lastsMs = confirmWithinSeconds * 1000;
        const found = await places.look();
        try {
          setPlaces({ adminPorts, ...found });
          devices = await kernel.follow();
          kernel.switchOn(options.kernelNow() + BigInt(lastsMs) * NANOSECONDS_EACH);
        } catch (cause) {
          switchOff();
          throw new FirewallError(
            'not-ready',
            `host policy stays default, since the kernel cannot be told: ${reasonOf(cause)}`,
            { retryable: true, cause },
          );
        }
        state = { kind: 'trial', adminPorts, endsAt: clock.monotonic() + lastsMs };
        note = undefined;
        logger.warn({ adminPorts, confirmWithinSeconds }, 'host policy full is being tried out');
        bell.ring();
      }),
    confirm: () =>
      inTurn(async () => {
        if (state.kind === 'full') return;
        if (state.kind !== 'trial' || clock.monotonic() >= state.endsAt) {
          throw new FirewallError(
            'state',
            `nothing is to be confirmed: ${note ?? 'host policy is default'}; clustermesh vm firewall enable begins a trial`,
          );
        }
        const { adminPorts } = state;
        const confirmed = { adminPorts, confirmedAt: new Date(clock.now()).toISOString() };
        // First the file: whoever dies in between is found in what the file says.
        writeFirewallFile(stateDir, confirmed);
        kernel.switchOn();
        state = { kind: 'full', ...confirmed };
        logger.warn(confirmed, 'host policy is full, an operator has confirmed it');
      }),
    disable: () =>
      inTurn(async () => {
        const { kind } = state;
        switchOff();
        note = undefined;
        if (kind !== 'default')
          logger.warn({ was: kind }, 'an operator set host policy to default');
        try {
          removeFirewallFile(stateDir);
        } catch (cause) {
          note = `host policy is default, and full again when the agent starts anew: ${reasonOf(cause)}`;
          throw new FirewallError('disk', note, { retryable: true, cause });
        }
      }),
    report,
    describe: () => ({
      ...report(),
      fixed: FIXED_RULES.map(({ name, passes, why, calls }) => ({
        name,
        passes,
        why,
        calls: state.kind === 'default' ? [] : (calls?.(openPlaces) ?? []).map(callText),
      })),
    }),
    problems: () => problems(),
    async run(signal) {
      const wake = (): void => bell.ring();
      signal.addEventListener('abort', wake, { once: true });
      while (!signal.aborted) {
        bell.clear();
        if (state.kind === 'default') {
          await bell.wait(FOR_EVER_MS, clock);
          continue;
        }
        const whole = AbortSignal.any([signal, life.signal]);
        await Promise.all([endTrial(whole), followDevices(whole), followPlaces(whole)]);
      }
      signal.removeEventListener('abort', wake);
      await inTurn(async () => {
        if (state.kind === 'trial') takeBack('the agent ended before anybody confirmed it');
      });
    },
  };

  function problems(): readonly string[] {
    const kept = failure === undefined ? [] : [`the firewall cannot be kept up: ${failure}`];
    const unjudged = devices.unjudged.map(
      ({ name, reason }) =>
        `the firewall does not judge what passes ${name}: ${reason}; guard it by other means`,
    );
    return [
      ...(note === undefined ? [] : [note]),
      ...kept,
      ...(state.kind === 'default' ? [] : [...unjudged, ...places.problems()]),
    ];
  }
}

function noteOfStart({ stored, kernel }: HostFirewallOptions): string | undefined {
  if (stored.kind === 'unreadable') {
    return `${stored.reason}; host policy is default: clustermesh vm firewall enable switches it to full again, or disable removes the file`;
  }
  if (stored.kind === 'none' && kernel.hadTrial) {
    return 'host policy full was taken back: the agent ended before anybody confirmed it; the machine is in default mode';
  }
  return undefined;
}

function alreadyOn(state: Exclude<State, { kind: 'default' }>): FirewallError {
  return new FirewallError(
    'state',
    state.kind === 'full'
      ? `host policy is full already, since ${state.confirmedAt}: to change its admin ports, disable it first`
      : 'host policy full is being tried out already: confirm it, or disable it first',
  );
}
