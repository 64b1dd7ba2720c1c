/** Checks of the services on this machine, done on the machine itself: what answers here is a backend. */
import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { CheckResult, HealthCheck } from '../registry/session-machine.ts';
import { reasonOf } from './machine-error.ts';

/** Checks under way at once: more wait for their turn. */
const AT_ONCE = 64;
const MAX_REASON_LENGTH = 200;
const WAIT_MS = 60_000;

/** The checks of a machine. */
export interface HealthChecks {
  /** What is to be checked from now on: it replaces what was said before, and results of what stays are kept. */
  set(checks: readonly HealthCheck[]): void;
  /** Results, everything that is known first, then what changes; ends when `signal` aborts. */
  results(signal: AbortSignal): AsyncGenerator<readonly CheckResult[], void, undefined>;
  /** Checks that fail at present, a sentence each. */
  problems(): readonly string[];
  /** Checks until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

interface Slot {
  readonly check: HealthCheck;
  readonly stop: AbortController;
  failures: number;
}

/** Makes checks; nothing is done until `run`. `address` is where the machine's services answer. */
export function createHealthChecks(options: {
  readonly address: () => string;
  readonly clock: Clock;
}): HealthChecks {
  const { address, clock } = options;
  const slots = new Map<string, Slot>();
  const latest = new Map<string, CheckResult>();
  const listeners = new Set<() => void>();
  const turns = createTurns(AT_ONCE);
  let running: AbortSignal | undefined;
  const loops = new Set<Promise<void>>();

  const note = (slot: Slot, problem: string | undefined): void => {
    const { check, failures } = slot.check;
    slot.failures = problem === undefined ? 0 : slot.failures + 1;
    const before = latest.get(check);
    // Until the limit is reached what was known stays; of what was never known the first result counts.
    if (problem !== undefined && before !== undefined && slot.failures < failures) return;
    const healthy = problem === undefined;
    const reason = (problem ?? '').slice(0, MAX_REASON_LENGTH);
    if (before?.healthy === healthy && before.reason === reason) return;
    latest.set(check, { check, healthy, reason });
    for (const ring of listeners) ring();
  };

  const repeat = async (slot: Slot, signal: AbortSignal): Promise<void> => {
    const { check } = slot;
    while (!signal.aborted) {
      const began = clock.monotonic();
      const problem = await turns.take(() => checkOnce(check, { address: address(), signal }));
      if (signal.aborted) return;
      note(slot, problem);
      const pauseMs = Math.max(0, check.periodMs - (clock.monotonic() - began));
      await clock.sleep(pauseMs, signal).catch(() => undefined);
    }
  };

  const start = (slot: Slot): void => {
    if (running === undefined) return;
    const signal = AbortSignal.any([running, slot.stop.signal]);
    const loop = repeat(slot, signal).finally(() => loops.delete(loop));
    loops.add(loop);
  };

  return {
    set(checks) {
      const next = new Map(checks.map((check) => [check.check, check]));
      for (const [name, slot] of slots) {
        if (sameCheck(slot.check, next.get(name))) continue;
        slot.stop.abort();
        slots.delete(name);
        if (!next.has(name)) latest.delete(name);
      }
      for (const [name, check] of next) {
        if (slots.has(name)) continue;
        const slot = { check, stop: new AbortController(), failures: 0 };
        slots.set(name, slot);
        start(slot);
      }
    },
    async *results(signal) {
      const bell = createBell();
      const ring = (): void => bell.ring();
      const told = new Map<string, CheckResult>();
      listeners.add(ring);
      signal.addEventListener('abort', ring, { once: true });
      try {
        while (!signal.aborted) {
          bell.clear();
          const changed = [...latest.values()].filter(
            (result) => told.get(result.check) !== result,
          );
          for (const result of changed) told.set(result.check, result);
          for (const name of told.keys()) if (!latest.has(name)) told.delete(name);
          if (changed.length > 0) yield changed;
          else await bell.wait(WAIT_MS, clock);
        }
      } finally {
        listeners.delete(ring);
        signal.removeEventListener('abort', ring);
      }
    },
    problems: () =>
      [...latest.values()].flatMap(({ check, healthy, reason }) =>
        healthy ? [] : [`check ${check} fails: ${reason}`],
      ),
    async run(signal) {
      running = signal;
      for (const slot of slots.values()) start(slot);
      while (!signal.aborted) await clock.sleep(WAIT_MS, signal).catch(() => undefined);
      running = undefined;
      await Promise.all(loops);
    },
  };
}

/** What is wrong with what a check asks for; undefined: nothing. Never rejects, and ends within the check's timeout. */
export async function checkOnce(
  check: HealthCheck,
  options: { readonly address: string; readonly signal: AbortSignal },
): Promise<string | undefined> {
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(check.timeoutMs)]);
  const { address } = options;
  try {
    switch (check.kind) {
      case 'tcp':
        await connectOnce(address, check.port, signal);
        return undefined;
      case 'http':
        return await getOnce(address, check, signal);
      default:
        return `checks of kind ${JSON.stringify(check.kind)} are not known to this agent: update it`;
    }
  } catch (error) {
    return signal.aborted && !options.signal.aborted
      ? `no answer within ${check.timeoutMs} ms`
      : reasonOf(error);
  }
}

function connectOnce(host: string, port: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect({ host, port, signal });
    socket.once('connect', () => {
      socket.destroy();
      resolve();
    });
    socket.once('error', reject);
  });
}

/** Any answer from 200 to 399 is a good one, as to Kubernetes' probes. The body is not read. */
function getOnce(
  host: string,
  { port, path }: HealthCheck,
  signal: AbortSignal,
): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const headers = { 'user-agent': 'isthmus-health-check', connection: 'close' };
    const asked = request({ host, port, path, headers, signal, agent: false }, (answer) => {
      const { statusCode = 0 } = answer;
      answer.destroy();
      resolve(
        statusCode >= 200 && statusCode < 400 ? undefined : `it answers with status ${statusCode}`,
      );
    });
    asked.once('error', reject);
    asked.end();
  });
}

function sameCheck(a: HealthCheck, b: HealthCheck | undefined): boolean {
  return b !== undefined && JSON.stringify(a) === JSON.stringify(b);
}

/** Lets so many at once do something; none of what is done may wait without end. */
function createTurns(count: number): { take<T>(work: () => Promise<T>): Promise<T> } {
  let free = count;
  const waiting: (() => void)[] = [];
  return {
    async take(work) {
      if (free > 0) free -= 1;
      else await new Promise<void>((resolve) => waiting.push(resolve));
      try {
        return await work();
      } finally {
        const next = waiting.shift();
        if (next === undefined) free += 1;
        else next();
      }
    },
  };
}
