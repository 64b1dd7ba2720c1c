/** What a datapath needs while it works: expired entries go, and MTUs and routes are looked at. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import { mapInfo } from './bpf.ts';
import { createConntrackGc, type GarbageMap } from './conntrack-gc.ts';
import type { Datapath, DatapathUpkeep, RoutingMode, UpkeepReport } from './desired.ts';
import { interfaceMtus } from './devices.ts';
import { createPlaces, describeUnrouted, findUnrouted } from './native-routes.ts';
import type { OpenMaps } from './object.ts';

/** How often interfaces and routes are looked at. */
const LOOK_EVERY_MS = 60_000;
/** The first time: rows of other nodes should be there. */
const FIRST_LOOK_MS = 5_000;

/** Maps of flows: their values begin with the time when they expire. */
const EXPIRING = ['mesh_ct', 'mesh_nat'] as const;
/** Maps of which nothing expires: those that programs fill and the kernel empties, and those that the agent writes. */
const COUNTED = [
  'mesh_fragments',
  'mesh_translations',
  'mesh_choices',
  'mesh_affinity',
  'mesh_icmp_limits',
  'mesh_ipcache4',
  'mesh_ipcache6',
  'mesh_endpoints',
  'mesh_policy',
  'mesh_services',
  'mesh_backends',
  'mesh_affinity_members',
  'mesh_maglev',
  'mesh_firewall_open',
] as const;

/** What the upkeep needs. */
export interface UpkeepOptions {
  readonly maps: OpenMaps;
  readonly tables: Pick<Datapath, 'ipcache' | 'endpoints'>;
  readonly routingMode: RoutingMode;
  readonly tunnelMtu: number;
  readonly gcIntervalMs: number | undefined;
}

/** Makes the upkeep of an open datapath. */
export function createUpkeep(options: UpkeepOptions): DatapathUpkeep {
  const { maps, tables, routingMode, tunnelMtu, gcIntervalMs } = options;
  const gc = createConntrackGc(garbageMaps(maps), { intervalMs: gcIntervalMs });
  let largerMtus: UpkeepReport['largerMtus'] = [];
  let problems: readonly string[] = [];

  const look = async (clock: Clock, signal: AbortSignal): Promise<void> => {
    const mtus = await interfaceMtus(signal);
    const interfaces = new Set(tables.endpoints.rows().map(({ hostInterface }) => hostInterface));
    largerMtus = [...interfaces].flatMap((hostInterface) => {
      const mtu = mtus.get(hostInterface) ?? 0;
      return mtu > tunnelMtu ? [{ hostInterface, mtu }] : [];
    });
    if (routingMode === 'tunnel') return;
    const places = createPlaces();
    for (const rows of tables.ipcache.scan?.() ?? [tables.ipcache.rows()]) {
      places.add(rows);
      // A large table is read in parts, between which others have the main loop.
      await clock.sleep(0, signal);
    }
    problems = describeUnrouted(await findUnrouted(places.places(), signal));
  };

  return {
    async run({ clock, logger }, signal) {
      const lookAgain = async (): Promise<void> => {
        for (let wait = FIRST_LOOK_MS; !signal.aborted; wait = LOOK_EVERY_MS) {
          try {
            await clock.sleep(wait, signal);
            await look(clock, signal);
          } catch (error) {
            if (signal.aborted) return;
            logger.warn({ err: error }, 'interfaces and routes cannot be looked at');
          }
        }
      };
      const onError = (error: unknown): void =>
        logger.warn({ err: error }, 'expired entries cannot be collected');
      await Promise.all([gc.run({ clock, onError }, signal), lookAgain()]);
    },
    report: () => ({ routingMode, tunnelMtu, largerMtus, problems, garbage: gc.status() }),
  };
}

function garbageMaps(maps: OpenMaps): GarbageMap[] {
  const describe = (name: string, expires: boolean): GarbageMap => {
    const { fd, maxEntries } = maps.get(name);
    const { keySize, valueSize } = mapInfo(fd);
    return { name, fd, maxEntries, keySize, valueSize, expires };
  };
  return [
    ...EXPIRING.map((name) => describe(name, true)),
    ...COUNTED.map((name) => describe(name, false)),
  ];
}
