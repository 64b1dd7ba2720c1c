/** `clustermesh-agent monitor`: follows the events of the agent of this node. */
import { once } from 'node:events';
import type { Writable } from 'node:stream';
import type { OptionValues } from '../../mesh/runtime/options.ts';
import type { MonitorEvent } from '../monitor/event.ts';
import { FILTER_FIELDS } from '../monitor/filter.ts';
import { type RenderOptions, renderCompact, renderDict } from '../monitor/render.ts';
import type { MONITOR_OPTIONS } from '../options.ts';
import { ApiError } from './api-error.ts';
import { followEvents, type ReceivedEvent } from './monitor-client.ts';

/** Where a monitor prints, and when it ends. */
export interface MonitorTerminal {
  readonly output: Writable;
  /** Hints, which are not part of the output. */
  readonly say: (line: string) => void;
  /** Whether the output is a terminal that wants colours. */
  readonly colours: boolean;
  readonly signal: AbortSignal;
}

/** Prints events until it is interrupted, or the remembered ones are told. Throws ApiError. */
export async function runMonitor(
  values: OptionValues<typeof MONITOR_OPTIONS>,
  terminal: MonitorTerminal,
): Promise<void> {
  const leaving = new AbortController();
  // Whoever reads has seen enough, as `head` does.
  terminal.output.on('error', (error: NodeJS.ErrnoException) => {
    leaving.abort(error.code === 'EPIPE' ? undefined : error);
  });
  const ending = AbortSignal.any([terminal.signal, leaving.signal]);
  const options: RenderOptions = { colours: terminal.colours, withNode: values.withNode };
  for await (const received of followEvents(values.socketPath, queryOf(values), ending)) {
    const { event } = received;
    if (event.kind === 'start') hint(event, values, terminal);
    const text = textOf(received, values.output, options);
    if (text === undefined || terminal.output.write(`${text}\n`)) continue;
    await once(terminal.output, 'drain', { signal: ending }).catch((error: unknown) => {
      if (!ending.aborted) throw error;
    });
  }
}

function queryOf(values: OptionValues<typeof MONITOR_OPTIONS>): URLSearchParams {
  const query = new URLSearchParams();
  if (values.drops) query.append('kind', 'drop');
  if (values.audit) query.append('kind', 'policy-audit');
  if (values.trace) query.append('kind', 'trace');
  if (values.services) query.append('kind', 'service');
  for (const field of FILTER_FIELDS) {
    for (const value of values[field]) query.append(field, value);
  }
  if (values.last !== undefined) {
    query.set('last', String(values.last));
    query.set('follow', String(values.follow));
  }
  return query;
}

/** What one may wonder about when nothing comes. */
function hint(
  start: Extract<MonitorEvent, { kind: 'start' }>,
  values: OptionValues<typeof MONITOR_OPTIONS>,
  { say }: MonitorTerminal,
): void {
  if (values.last !== undefined && start.history === 0) {
    throw new ApiError(
      'bad-question',
      'the agent remembers no events: start it with --monitor-history EVENTS, or leave out --last',
    );
  }
  const wantsTraces = values.trace && start.traceLevel === 'none';
  const wantsCalls = values.services && ['none', 'low'].includes(start.traceLevel);
  if (values.last === undefined && (wantsTraces || wantsCalls)) {
    say(
      `the agent's trace level is ${start.traceLevel}: \`clustermesh-agent trace-level medium\` makes it tell more`,
    );
  }
}

function textOf(
  { line, event }: ReceivedEvent,
  format: OptionValues<typeof MONITOR_OPTIONS>['output'],
  options: RenderOptions,
): string | undefined {
  switch (format) {
    case 'compact':
      return renderCompact(event, options);
    case 'dict':
      return renderDict(event, options);
    case 'json':
      return line;
    default:
      return format satisfies never;
  }
}
