/**
 * A process that opens the datapath of the network namespace it was started in, as an agent does. The first line on
 * standard input holds the options, each further one a request; each is answered by a line. Not a test itself.
 */
import { createInterface } from 'node:readline';
import { openDatapath } from '../datapath.ts';
import { DatapathError } from '../datapath-error.ts';
import type {
  Datapath,
  DatapathOptions,
  EndpointEntry,
  FrontendEntry,
  IpcacheEntry,
  PolicyEntry,
} from '../desired.ts';

/** Rows to write, and interfaces to attach to or detach from. */
export interface DatapathRequest {
  readonly attach?: readonly string[];
  readonly detach?: readonly string[];
  readonly ipcache?: readonly IpcacheEntry[];
  readonly endpoints?: readonly EndpointEntry[];
  readonly policy?: readonly PolicyEntry[];
  readonly policyDeletes?: readonly PolicyEntry[];
  readonly services?: readonly FrontendEntry[];
  /** Interfaces of endpoints that are looked at for `detached`. */
  readonly look?: readonly string[];
  readonly uninstall?: boolean;
}

/** The state after a request, or why it failed. */
export type DatapathAnswer =
  | {
      readonly tunnelMtu: number;
      /** `reason direction` to packets. */
      readonly counters: Readonly<Record<string, number>>;
      readonly ipcache: readonly IpcacheEntry[];
      readonly endpoints: readonly EndpointEntry[];
      readonly detached: readonly string[];
    }
  | { readonly error: string; readonly code: string };

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function say(answer: DatapathAnswer): void {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

function sayError(error: unknown): void {
  if (!(error instanceof DatapathError)) throw error;
  say({ error: error.message, code: error.code });
}

function handle(datapath: Datapath, request: DatapathRequest): void {
  for (const name of request.attach ?? []) datapath.attachEndpoint(name);
  for (const name of request.detach ?? []) datapath.detachEndpoint(name);
  datapath.ipcache.apply({ upserts: request.ipcache ?? [], deletes: [] });
  datapath.endpoints.apply({ upserts: request.endpoints ?? [], deletes: [] });
  datapath.policy.apply({ upserts: request.policy ?? [], deletes: request.policyDeletes ?? [] });
  datapath.services.apply({ upserts: request.services ?? [], deletes: [] });
}

function describe(
  datapath: Datapath,
  tunnelMtu: number,
  look: readonly string[] = [],
): DatapathAnswer {
  const counters = datapath
    .counters()
    .map(({ reason, direction, packets }) => [`${reason} ${direction}`, Number(packets)]);
  return {
    tunnelMtu,
    counters: Object.fromEntries(counters),
    ipcache: datapath.ipcache.rows(),
    endpoints: datapath.endpoints.rows(),
    detached: datapath.detached(look),
  };
}

async function main(): Promise<void> {
  const options: DatapathOptions = JSON.parse((await lines.next()).value);
  await using datapath = await openDatapath({
    ...options,
    mapSizes: { mesh_ct: 4096, mesh_translations: 256, mesh_choices: 256 },
  });
  say(describe(datapath, datapath.tunnelMtu));
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const request: DatapathRequest = JSON.parse(line.value);
    if (request.uninstall) {
      await datapath.uninstall();
      say({ tunnelMtu: 0, counters: {}, ipcache: [], endpoints: [], detached: [] });
      return;
    }
    try {
      handle(datapath, request);
      say(describe(datapath, datapath.tunnelMtu, request.look));
    } catch (error) {
      sayError(error);
    }
  }
}

await main().catch(sayError);
