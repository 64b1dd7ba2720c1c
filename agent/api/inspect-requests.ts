/** What the socket answers about the mesh: `/v1/inspect/<kind>` as lines of JSON, and `/v1/inspect/service`. */
import type { ServerResponse } from 'node:http';
import { setImmediate } from 'node:timers/promises';
import {
  describeService,
  INSPECT_KINDS,
  type InspectSources,
  inspectRows,
} from './inspect-rows.ts';

const PREFIX = '/v1/inspect/';
/** How long rows are made before others get their turn, in milliseconds. */
const TURN_MS = 10;

/** Whether a path is one of these. */
export function isInspectPath(pathname: string): boolean {
  return pathname.startsWith(PREFIX);
}

/**
 * Answers a question about the mesh. The first line says who answers; each one after it is a row. There may be a million of
 * them: they are made in turns, no faster than they are read.
 */
export async function answerInspection(
  { method, url }: { readonly method: string; readonly url: URL },
  response: ServerResponse,
  sources: InspectSources,
): Promise<void> {
  const wanted = url.pathname.slice(PREFIX.length);
  const kind = INSPECT_KINDS.find((known) => known === wanted);
  if (method !== 'GET') {
    refuse(response, 405, `cannot ${method} ${url.pathname}: expected GET`);
  } else if (wanted === 'service') {
    answerService(url.searchParams.get('name') ?? '', response, sources);
  } else if (kind === undefined) {
    refuse(response, 404, `cannot list ${wanted}: expected one of ${INSPECT_KINDS.join(', ')}`);
  } else {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.write(line(speaker(sources)));
    await writeRows(inspectRows(kind, sources), response);
    response.end();
  }
}

function answerService(name: string, response: ServerResponse, sources: InspectSources): void {
  if (!/^[^/]+\/[^/]+$/.test(name)) {
    refuse(response, 400, `cannot describe Service ${name}: expected NAMESPACE/NAME`);
    return;
  }
  const service = describeService(name, sources);
  if (service === undefined) {
    refuse(response, 404, `neither this cluster nor a peer has a Service ${name}`);
    return;
  }
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(line({ ...speaker(sources), ...service }));
}

async function writeRows(rows: Iterable<object>, response: ServerResponse): Promise<void> {
  let text = '';
  let turnEnds = performance.now() + TURN_MS;
  for (const row of rows) {
    text += line(row);
    if (performance.now() < turnEnds) continue;
    if (!response.write(text)) await drained(response);
    // Whoever asked has left.
    if (response.destroyed) return;
    text = '';
    await setImmediate();
    turnEnds = performance.now() + TURN_MS;
  }
  response.write(text);
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off('drain', done);
      response.off('close', done);
      resolve();
    };
    response.once('drain', done);
    response.once('close', done);
  });
}

function speaker({ node }: InspectSources): object {
  return { agent: { cluster: node.clusterName, node: node.nodeName } };
}

function refuse(response: ServerResponse, status: number, error: string): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(line({ error }));
}

function line(value: object): string {
  return `${JSON.stringify(value)}\n`;
}
