/** Which events somebody wants: pure. Of one option any value must fit, of several options each. */
import {
  type IpPrefix,
  makePrefix,
  parseIpAddress,
  parseIpPrefix,
  prefixContains,
} from '../../mesh/wire/ip.ts';
import { EVENT_KINDS, FIRST_DROP_REASON } from '../../mesh/wire/maps.ts';
import type { Party, TrafficEvent } from './event.ts';
import { MonitorError } from './monitor-error.ts';

/** Kinds that can be asked for: `drop` has refused calls to services as well. */
export type WantedKind = (typeof EVENT_KINDS)[number];

/** Options that may be given several times, as they are in the query and, with dashes, on the command line. */
export const FILTER_FIELDS = ['from', 'to', 'identity', 'endpoint', 'cluster', 'port'] as const;

/** What somebody wants to see, as text. Nothing given: everything. */
export type FilterRequest = Readonly<
  Partial<Record<(typeof FILTER_FIELDS)[number], readonly string[]>>
> & {
  readonly kinds?: readonly string[] | undefined;
};

/** Says of an event whether it is wanted. */
export type EventFilter = (event: TrafficEvent) => boolean;

/** One side as somebody names it. */
type PartyTest = (party: Party) => boolean;

/** Makes a filter. Throws MonitorError `bad-filter` that names the option and what it takes. */
export function createFilter(request: FilterRequest): EventFilter {
  const kinds = (request.kinds ?? []).map(parseKind);
  const from = (request.from ?? []).map((text) => parseParty('from', text));
  const to = (request.to ?? []).map((text) => parseParty('to', text));
  const identities = numbers('identity', request.identity, 0xffff_ffff);
  const endpoints = numbers('endpoint', request.endpoint, 0xffff);
  const ports = numbers('port', request.port, 0xffff);
  const clusters = request.cluster ?? [];
  return (event) => {
    const sides = sidesOf(event);
    const some = <T>(values: readonly T[], fits: (value: T, party: Party) => boolean): boolean =>
      values.length === 0 || values.some((value) => sides.some((party) => fits(value, party)));
    return (
      (kinds.length === 0 || kinds.some((kind) => isOfKind(event, kind))) &&
      (from.length === 0 || from.some((test) => test(event.source))) &&
      (to.length === 0 ||
        to.some((test) => sides.some((party) => party !== event.source && test(party)))) &&
      some(identities, (identity, party) => party.identity === identity) &&
      some(clusters, (cluster, party) => party.cluster === cluster) &&
      some(ports, (port, party) => party.port === port) &&
      (endpoints.length === 0 ||
        (event.kind !== 'service' &&
          event.endpoint !== undefined &&
          endpoints.includes(event.endpoint.id)))
    );
  };
}

function sidesOf(event: TrafficEvent): readonly Party[] {
  const sides = [event.source, event.destination];
  return event.kind === 'service' && event.backend !== undefined
    ? [...sides, event.backend]
    : sides;
}

function isOfKind(event: TrafficEvent, kind: WantedKind): boolean {
  if (event.kind === kind) return true;
  return kind === 'drop' && event.kind === 'service' && event.reasonNumber >= FIRST_DROP_REASON;
}

function parseKind(text: string): WantedKind {
  const kind = EVENT_KINDS.find((known) => known === text);
  if (kind !== undefined) return kind;
  throw new MonitorError('bad-filter', `kind ${text}: expected one of ${EVENT_KINDS.join(', ')}`);
}

/** An address, a prefix, or `namespace/name` of a pod. */
function parseParty(option: 'from' | 'to', text: string): PartyTest {
  const prefix = parsePrefix(text);
  if (prefix !== undefined) {
    return ({ address }) => address !== undefined && prefixContains(prefix, address);
  }
  if (/^[^/\s]+\/[^/\s]+$/.test(text)) return ({ pod }) => pod === text;
  throw new MonitorError(
    'bad-filter',
    `${option} ${text}: expected an address, a prefix, or namespace/name of a pod of this node`,
  );
}

function parsePrefix(text: string): IpPrefix | undefined {
  try {
    if (text.includes('/')) return parseIpPrefix(text);
    const address = parseIpAddress(text);
    return makePrefix(address, address.includes(':') ? 128 : 32);
  } catch {
    // Not an address: it may be something else.
    return undefined;
  }
}

function numbers(option: string, texts: readonly string[] = [], max: number): readonly number[] {
  return texts.map((text) => {
    const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= 0 && value <= max) return value;
    throw new MonitorError('bad-filter', `${option} ${text}: expected a number from 0 to ${max}`);
  });
}
