/** Backends out of records, made once: a record that comes again with one change gives the same objects but for one. */
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { L4Port, PortMap } from '../../mesh/wire/service.ts';
import type { Backend } from '../datapath/desired.ts';

/** Backends by cluster and port, as they were collected last. */
export type CollectedBackends = Map<string, readonly Backend[]>;

/** Collects the backends that have a port of that name and protocol, in the order of the record. */
export function collectBackends(
  backends: ReadonlyMap<IpAddress, PortMap>,
  wanted: {
    readonly name: string;
    readonly protocol: L4Port['protocol'];
    readonly family: 4 | 6;
  },
  from: {
    readonly clusterId: number;
    /** Which of a record's lists it is. */
    readonly list: string;
    readonly collected?:
      | { readonly before: CollectedBackends | undefined; readonly now: CollectedBackends }
      | undefined;
  },
): readonly Backend[] {
  const { clusterId, collected } = from;
  const key = `${clusterId} ${from.list} ${wanted.family} ${wanted.protocol} ${wanted.name}`;
  const before = collected?.before?.get(key) ?? [];
  const found = collect(backends, wanted, { clusterId, before });
  collected?.now.set(key, found);
  return found;
}

/** How far two lists may have drifted apart before the objects of the old one are looked for by address. */
const LOOK_AHEAD = 8;

function collect(
  backends: ReadonlyMap<IpAddress, PortMap>,
  wanted: Parameters<typeof collectBackends>[1],
  { clusterId, before }: { clusterId: number; before: readonly Backend[] },
): Backend[] {
  const found: Backend[] = [];
  // Both lists are in the order of the record, so an object of the old one is nearly always the next.
  let position = 0;
  let byAddress: Map<IpAddress, number> | undefined;
  const placeOf = (address: IpAddress): number | undefined => {
    for (let place = position; place < position + LOOK_AHEAD; place += 1) {
      if (before[place]?.address === address) return place;
    }
    if (before.length <= LOOK_AHEAD) return undefined;
    byAddress ??= new Map(before.map((backend, place) => [backend.address, place]));
    return byAddress.get(address);
  };
  for (const [address, ports] of backends) {
    if (ipFamily(address) !== wanted.family) continue;
    const target = ports.get(wanted.name);
    if (target === undefined || target.protocol !== wanted.protocol) continue;
    const { port, protocol } = target;
    const place = placeOf(address);
    const old = place === undefined ? undefined : before[place];
    if (place !== undefined) position = place + 1;
    found.push(
      old !== undefined && old.port === port && old.protocol === protocol
        ? old
        : { address, port, protocol, clusterId },
    );
  }
  return found;
}
