/**
 * Endpoints behind machines, such as containers: an administrator says which there are, at which address and with which labels. A
 * machine has no say in it; they are published as long as it is. Pure.
 */
import { z } from 'zod';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { MachineEndpoint } from '../convert/machine.ts';
import { findBadLabel } from './granted-labels.ts';
import type { MachineRefusal } from './machine-enrolment.ts';
import { isMachineName, type MachineRecord } from './machine-record.ts';
import { FactsError, parseUnderlayAddress } from './node-facts.ts';

/** So few that what is kept of a machine stays far below what etcd takes for a value. */
const MOST_ENDPOINTS = 100;
const MOST_ADDRESSES = 4;
const MOST_LABELS = 16;

const messageSchema = z.object({
  name: z.string().default(''),
  addresses: z.array(z.string()).default([]),
  labels: z.record(z.string(), z.string()).default({}),
});

/** Reads a MachineEndpoint as it came. Throws FactsError naming the field. */
export function parseMachineEndpoint(message: unknown): MachineEndpoint {
  const result = messageSchema.safeParse(message);
  if (!result.success) throw refused('endpoint', 'none is given, expected its name and addresses');
  const { name, addresses, labels } = result.data;
  if (!isMachineName(name)) {
    const shown = JSON.stringify(name.slice(0, 80));
    throw refused(
      'name',
      `${shown} is no name of an endpoint, expected 1 to 63 of a-z, 0-9 and "-"`,
    );
  }
  if (addresses.length === 0 || addresses.length > MOST_ADDRESSES) {
    throw refused('addresses', `${addresses.length} are given, expected 1 to ${MOST_ADDRESSES}`);
  }
  const bad = findBadLabel(labels);
  if (bad !== undefined) throw refused('labels', bad);
  const count = Object.keys(labels).length;
  if (count > MOST_LABELS) throw refused('labels', `expected at most ${MOST_LABELS}, not ${count}`);
  return { name, addresses: [...new Set(addresses.map(parseUnderlayAddress))].sort(), labels };
}

/** A machine with an endpoint, in place of the one of that name if there is one; or why it cannot have it. */
export function withEndpoint(
  record: MachineRecord,
  endpoint: MachineEndpoint,
): MachineRecord | MachineRefusal {
  const others = endpointsOf(record).filter(({ name }) => name !== endpoint.name);
  if (others.length >= MOST_ENDPOINTS) {
    const reason = `machine ${record.name} has ${others.length} endpoints, more are not possible`;
    return { field: 'endpoint', reason };
  }
  return { ...record, endpoints: [...others, endpoint].sort(byName) };
}

/** A machine without an endpoint; or that it has none of this name. */
export function withoutEndpoint(
  record: MachineRecord,
  name: string,
): MachineRecord | MachineRefusal {
  const rest = endpointsOf(record).filter((endpoint) => endpoint.name !== name);
  if (rest.length === endpointsOf(record).length) {
    const shown = JSON.stringify(name.slice(0, 80));
    return { field: 'endpoint', reason: `machine ${record.name} has no endpoint ${shown}` };
  }
  return { ...record, endpoints: rest };
}

/**
 * Whether machines have an address already that an endpoint is to have, present or not: what is away is not published, and comes
 * back. `path` is `machine/endpoint`.
 */
export function findEndpointConflict(
  records: Iterable<MachineRecord>,
  { path, addresses }: { readonly path: string; readonly addresses: readonly IpAddress[] },
): MachineRefusal | undefined {
  for (const record of records) {
    if (record.removedAt !== undefined) continue;
    const holders = [
      { holder: record.name, held: record.addresses },
      ...endpointsOf(record).map((endpoint) => ({
        holder: `${record.name}/${endpoint.name}`,
        held: endpoint.addresses,
      })),
    ];
    for (const { holder, held } of holders) {
      const taken = holder === path ? undefined : addresses.find((one) => held.includes(one));
      if (taken !== undefined) {
        return { field: 'addresses', reason: `${taken} is held by machine ${holder}` };
      }
    }
  }
  return undefined;
}

/** Endpoints behind a machine, by name. */
export function endpointsOf({ endpoints = [] }: MachineRecord): readonly MachineEndpoint[] {
  return endpoints;
}

function byName(a: MachineEndpoint, b: MachineEndpoint): number {
  return a.name < b.name ? -1 : 1;
}

function refused(field: string, reason: string): FactsError {
  return new FactsError({ field, reason });
}
