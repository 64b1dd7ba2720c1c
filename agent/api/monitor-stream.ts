/** `GET /v1/monitor`: events as lines of JSON, as long as the listener wants. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { formatTime, type LostEvent, type StartEvent } from '../monitor/event.ts';
import { createFilter, type EventFilter, FILTER_FIELDS } from '../monitor/filter.ts';
import { createLineQueue } from '../monitor/line-queue.ts';
import type { Monitor } from '../monitor/monitor.ts';
import { MonitorError } from '../monitor/monitor-error.ts';

/** What a stream is made of. */
export interface MonitorStreamSources {
  readonly monitor: Monitor;
  readonly node: string;
  /** Events that wait for a listener at most; what comes then is lost to it. */
  readonly queueSize: number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/** What somebody asks for. */
interface StreamRequest {
  readonly filter: EventFilter;
  /** Remembered events that come first. */
  readonly last: number;
  /** Whether to stay for those to come. */
  readonly follow: boolean;
}

const FIELDS: readonly string[] = [...FILTER_FIELDS, 'kind', 'last', 'follow'];
const MAX_LAST = 1_000_000;

/** Parses a query. Throws MonitorError `bad-filter`. */
export function parseStreamQuery(query: URLSearchParams): StreamRequest {
  for (const name of query.keys()) {
    if (!FIELDS.includes(name)) {
      throw new MonitorError('bad-filter', `${name}: expected one of ${FIELDS.join(', ')}`);
    }
  }
  const last = query.get('last') ?? '0';
  if (!/^\d{1,7}$/.test(last) || Number(last) > MAX_LAST) {
    throw new MonitorError('bad-filter', `last ${last}: expected a number from 0 to ${MAX_LAST}`);
  }
  const follow = query.get('follow') ?? 'true';
  if (follow !== 'true' && follow !== 'false') {
    throw new MonitorError('bad-filter', `follow ${follow}: expected true or false`);
  }
  const filter = createFilter({
    kinds: query.getAll('kind'),
    ...Object.fromEntries(FILTER_FIELDS.map((field) => [field, query.getAll(field)])),
  });
  return { filter, last: Number(last), follow: follow === 'true' };
}

/** Answers with lines until the listener leaves. Throws MonitorError and DatapathError before the first of them. */
export async function serveMonitor(
  request: IncomingMessage,
  response: ServerResponse,
  sources: MonitorStreamSources,
): Promise<void> {
  const { monitor, node, now } = sources;
  const { searchParams } = new URL(request.url ?? '/', 'http://agent');
  const { filter, last, follow } = parseStreamQuery(searchParams);
  const stamp = () => ({ time: formatTime(now() * 1000), node });
  const queue = createLineQueue(sources.queueSize, (count) => {
    monitor.countLost(count);
    const event: LostEvent = { kind: 'lost', ...stamp(), where: 'listener', of: undefined, count };
    return JSON.stringify(event);
  });
  let isOpen = false;
  let isScheduled = false;
  const pump = (): void => {
    isScheduled = false;
    while (isOpen && !queue.isEmpty && !response.writableNeedDrain) response.write(queue.take());
  };
  const left = new Promise<void>((resolve) => response.once('close', resolve));
  response.on('drain', pump);
  // Adding the listener and looking at the past happen in one turn: no event is missed, none comes twice.
  const listening = follow
    ? monitor.listen({
        filter,
        onEvent(_event, line) {
          queue.push(line);
          if (isScheduled || !isOpen) return;
          isScheduled = true;
          // All of a batch in one write.
          setImmediate(pump);
        },
      })
    : undefined;
  const past = last === 0 ? [] : monitor.recall(filter, last);
  await using _listening = await listening;
  const start: StartEvent = {
    kind: 'start',
    ...stamp(),
    traceLevel: monitor.traceLevel,
    history: monitor.historySize,
  };
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  response.write([start, ...past].map((event) => `${JSON.stringify(event)}\n`).join(''));
  if (!follow) {
    response.end();
    return;
  }
  isOpen = true;
  pump();
  await left;
}
