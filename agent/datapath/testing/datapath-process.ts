/**
 * A process that opens the datapath of the network namespace it was started in, as an agent does. The first line on
 * standard input holds the options, each further one a request; each is answered by a line. Not a test itself.
 */
import { createInterface } from 'node:readline';
import { type Clock, systemClock } from '../../../mesh/runtime/clock.ts';
import type { IpPrefix } from '../../../mesh/wire/ip.ts';
import { type OpenedDatapath, openDatapath } from '../datapath.ts';
import { DatapathError } from '../datapath-error.ts';
import type {
  Datapath,
  DatapathOptions,
  EndpointEntry,
  FrontendEntry,
  IpcacheEntry,
  PolicyEntry,
  UpkeepReport,
} from '../desired.ts';
import type { FirewallCall } from '../firewall.ts';
import type { HostRouteResult } from '../host-routes.ts';
import type { KernelSwitches } from '../kernel-switches.ts';
import type { MapSizes } from '../object.ts';
import { attachFirstLayout } from './first-layout.ts';

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
  /** Begins the upkeep, at twenty times its pace and more. */
  readonly upkeep?: boolean;
  /** Interfaces of endpoints that are attached again where they are not. */
  readonly heal?: readonly string[];
  /** Networks that the node itself is to reach through the tunnel, and those of its routes that are to stay in any case. */
  readonly hostRoutes?: readonly IpPrefix[];
  readonly keptRoutes?: readonly IpPrefix[];
  /** Makes the host a firewall on all its devices with these calls open, for so many milliseconds; 0: it ends to be one. */
  readonly firewall?: { readonly open: readonly FirewallCall[]; readonly lastsMs: number };
  /** The rows are written: an upgrade that waited for them may go on. */
  readonly finishUpgrade?: boolean;
}

/** DatapathOptions and what tests turn. */
export interface DatapathProcessOptions extends DatapathOptions {
  readonly mapSizes?: MapSizes;
  readonly kernel?: KernelSwitches;
  /** Step of an upgrade after which the process kills itself. */
  readonly killAt?: string;
  /** Leaves the node as a release with the first layout would, and ends. */
  readonly firstLayout?: boolean;
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
      readonly services: readonly FrontendEntry[];
      /** What `heal` did. */
      readonly healed: readonly string[];
      /** Maps that an upgrade waits for, and those that it could not read. */
      readonly pending: readonly string[];
      readonly lost: readonly string[];
      readonly upkeep: UpkeepReport | undefined;
      readonly hostRoutes: HostRouteResult | undefined;
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
  if (request.finishUpgrade) datapath.upgrade?.finish();
}

/** What a request has asked for and brought about. */
interface Done {
  readonly look: readonly string[];
  readonly healed: readonly string[];
  readonly hostRoutes: HostRouteResult | undefined;
}

function describe(
  datapath: OpenedDatapath,
  { look = [], healed = [], hostRoutes }: Partial<Done> = {},
): DatapathAnswer {
  const counters = datapath
    .counters()
    .map(({ reason, direction, packets }) => [`${reason} ${direction}`, Number(packets)]);
  return {
    tunnelMtu: datapath.tunnelMtu,
    counters: Object.fromEntries(counters),
    ipcache: datapath.ipcache.rows(),
    endpoints: datapath.endpoints.rows(),
    services: datapath.services.rows(),
    detached: datapath.detached(look),
    healed,
    pending: datapath.upgrade?.pending() ?? [],
    lost: datapath.lost,
    upkeep: datapath.upkeep?.report(),
    hostRoutes,
  };
}

const NOTHING_LEFT: DatapathAnswer = {
  tunnelMtu: 0,
  counters: {},
  ipcache: [],
  endpoints: [],
  services: [],
  detached: [],
  healed: [],
  pending: [],
  lost: [],
  upkeep: undefined,
  hostRoutes: undefined,
};

/** Turns so fast that what comes once a minute comes a few times a second. */
const fastClock: Clock = {
  ...systemClock,
  sleep: (milliseconds, signal) => systemClock.sleep(Math.min(milliseconds, 200), signal),
};

async function switchFirewall(
  { firewall }: OpenedDatapath,
  { open, lastsMs }: NonNullable<DatapathRequest['firewall']>,
): Promise<void> {
  if (lastsMs === 0) {
    firewall.switchOff();
    return;
  }
  firewall.setOpen(open);
  await firewall.follow();
  firewall.switchOn(process.hrtime.bigint() + BigInt(lastsMs) * 1_000_000n);
}

function runUpkeep(datapath: OpenedDatapath, signal: AbortSignal): Promise<void> | undefined {
  const warn = (fields: unknown, text?: string): void =>
    console.error(text, JSON.stringify(fields));
  return datapath.upkeep?.run({ clock: fastClock, logger: { warn } }, signal);
}

async function main(): Promise<void> {
  const { killAt, ...options }: DatapathProcessOptions = JSON.parse((await lines.next()).value);
  if (options.firstLayout) {
    await attachFirstLayout(options);
    say(NOTHING_LEFT);
    return;
  }
  await using datapath = await openDatapath({
    ...options,
    mapSizes: { mesh_ct: 4096, mesh_translations: 256, mesh_choices: 256, ...options.mapSizes },
    onStep: (step) => {
      if (step === killAt) process.kill(process.pid, 'SIGKILL');
    },
  });
  say(describe(datapath));
  const ending = new AbortController();
  let upkeep: Promise<void> | undefined;
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const request: DatapathRequest = JSON.parse(line.value);
    if (request.upkeep) upkeep ??= runUpkeep(datapath, ending.signal);
    if (request.uninstall) {
      await datapath.uninstall();
      say(NOTHING_LEFT);
      return;
    }
    try {
      handle(datapath, request);
      if (request.firewall !== undefined) await switchFirewall(datapath, request.firewall);
      const healed = request.heal === undefined ? [] : await datapath.heal?.(request.heal);
      const { hostRoutes: wanted, keptRoutes = [], look = [] } = request;
      const keep = (): ReadonlySet<IpPrefix> => new Set(keptRoutes);
      const hostRoutes = wanted && (await datapath.hostRoutes?.sync({ wanted, keep }));
      say(describe(datapath, { look, healed: healed ?? [], hostRoutes }));
    } catch (error) {
      sayError(error);
    }
  }
  ending.abort();
  await upkeep;
}

await main().catch(sayError);
