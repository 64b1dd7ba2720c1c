/**
 * Entries of the first layout in the words of the second: services got numbers and room for what they can do now, what
 * UDP sockets chose names the service's number, and drops are counted under Cilium's numbers.
 */
import {
  COUNTER,
  CT_ESTABLISHED,
  CT_KEY,
  CT_REPLIED,
  CT_VALUE,
  DIRECTIONS,
  MEMBER_ACTIVE,
  MEMBER_KEY,
  SERVICE_VALUE,
} from '../../mesh/wire/maps.ts';
import { possibleCpus } from './bpf.ts';
import { type Entries, type MapSource, readEntries, type SourceMap } from './migration-source.ts';

/** Bytes of the first layout; those of keys are still the same, but for the scope in what was padding. */
const SERVICE_1 = {
  keySize: 24,
  /** Address, port, protocol and scope: the frontend. */
  frontendSize: 20,
  protocol: 18,
  slot: 20,
  valueSize: 8,
  count: 0,
  backendId: 4,
} as const;
const CHOICE_1 = { keySize: 32, address: 8, port: 24, valueSize: 8, backendId: 4 } as const;
/** Time, identity and flags stand where they still do. */
const CT_1 = { valueSize: 16 } as const;
const TCP = 6;
const UDP = 17;

/** Numbers of the first layout, by those of the second; the others are as they were. */
const REASONS_1: ReadonlyMap<number, number> = new Map([
  [16, 133],
  [17, 181],
  [18, 132],
  [19, 134],
  [20, 139],
  [21, 175],
  [22, 152],
  [23, 171],
  [24, 147],
  [25, 172],
  [26, 224],
  [27, 225],
  [28, 141],
  [29, 202],
  [30, 158],
]);

/** A map of the second layout, made of maps of the first. */
export interface Converter {
  /** Maps of the first schema that must be there. */
  readonly needs: readonly string[];
  convert(source: MapSource): Iterable<Entries>;
}

/** By name of the map that is made. */
export const CONVERTERS_FROM_1: Readonly<Record<string, Converter>> = {
  mesh_services: { needs: ['mesh_services'], convert: convertServices },
  // What was padding has become flags, and was zero.
  mesh_backends: {
    needs: ['mesh_backends'],
    convert: (source) => readEntries(need(source, 'mesh_backends')),
  },
  mesh_affinity_members: { needs: ['mesh_services'], convert: convertMembers },
  mesh_choices: { needs: ['mesh_services', 'mesh_choices'], convert: convertChoices },
  mesh_ct: { needs: ['mesh_ct'], convert: convertConntrack },
  mesh_metrics: { needs: ['mesh_metrics'], convert: convertMetrics },
};

function* convertServices(source: MapSource): Iterable<Entries> {
  const services = need(source, 'mesh_services');
  const numbers = numberFrontends(services);
  const { fields, size } = SERVICE_VALUE;
  for (const { keys, values, count } of readEntries(services)) {
    const converted = new DataView(new ArrayBuffer(count * size));
    for (let index = 0; index < count; index += 1) {
      const from = index * SERVICE_1.valueSize;
      const to = index * size;
      const isFrontend = slotAt(keys, index) === 0;
      converted.setUint32(to + fields.count, values.getUint32(from + SERVICE_1.count, true), true);
      const backendId = values.getUint32(from + SERVICE_1.backendId, true);
      converted.setUint32(to + fields.backendId, backendId, true);
      const serviceId = isFrontend ? (numbers.get(frontendAt(keys, index)) ?? 0) : 0;
      converted.setUint32(to + fields.serviceId, serviceId, true);
    }
    yield { keys, values: converted, count };
  }
}

/** Datagrams of a socket go on to their backend while it is a member of the service. */
function* convertMembers(source: MapSource): Iterable<Entries> {
  const services = need(source, 'mesh_services');
  const numbers = numberFrontends(services);
  for (const { keys, values, count } of readEntries(services)) {
    const memberKeys = new DataView(new ArrayBuffer(count * MEMBER_KEY.size));
    const memberValues = new DataView(new ArrayBuffer(count * 4));
    let members = 0;
    for (let index = 0; index < count; index += 1) {
      const serviceId = numbers.get(frontendAt(keys, index));
      const protocol = keys.getUint8(index * SERVICE_1.keySize + SERVICE_1.protocol);
      if (protocol !== UDP || serviceId === undefined || slotAt(keys, index) === 0) continue;
      const to = members * MEMBER_KEY.size;
      const from = index * SERVICE_1.valueSize + SERVICE_1.backendId;
      memberKeys.setUint32(to + MEMBER_KEY.fields.serviceId, serviceId, true);
      memberKeys.setUint32(to + MEMBER_KEY.fields.backendId, values.getUint32(from, true), true);
      memberValues.setUint32(members * 4, MEMBER_ACTIVE, true);
      members += 1;
    }
    yield { keys: memberKeys, values: memberValues, count: members };
  }
}

function* convertChoices(source: MapSource): Iterable<Entries> {
  const numbers = numberFrontends(need(source, 'mesh_services'));
  for (const { keys, values, count } of readEntries(need(source, 'mesh_choices'))) {
    const chosen = new DataView(new ArrayBuffer(count * CHOICE_1.valueSize));
    for (let index = 0; index < count; index += 1) {
      const frontend = frontendOfSocket(keys, index * CHOICE_1.keySize);
      const to = index * CHOICE_1.valueSize;
      const backendId = values.getUint32(to + CHOICE_1.backendId, true);
      // 0 is no service: the next datagram chooses anew.
      chosen.setUint32(to, numbers.get(frontend) ?? 0, true);
      chosen.setUint32(to + CHOICE_1.backendId, backendId, true);
    }
    yield { keys, values: chosen, count };
  }
}

/** Flows got room for the node they came from, and say whether a handshake is over: an answered one was, before. */
function* convertConntrack(source: MapSource): Iterable<Entries> {
  const { fields, size } = CT_VALUE;
  for (const { keys, values, count } of readEntries(need(source, 'mesh_ct'))) {
    const converted = new DataView(new ArrayBuffer(count * size));
    for (let index = 0; index < count; index += 1) {
      const from = index * CT_1.valueSize;
      const to = index * size;
      const flags = values.getUint8(from + fields.flags);
      const isTcp = keys.getUint8(index * CT_KEY.size + CT_KEY.fields.protocol) === TCP;
      const isOver = isTcp && (flags & CT_REPLIED) !== 0;
      converted.setBigUint64(to + fields.expiresNs, values.getBigUint64(from, true), true);
      converted.setUint32(
        to + fields.identity,
        values.getUint32(from + fields.identity, true),
        true,
      );
      converted.setUint8(to + fields.flags, isOver ? flags | CT_ESTABLISHED : flags);
    }
    yield { keys, values: converted, count };
  }
}

/** Rows of a per-CPU array: each value is a row of counters, one a CPU. */
function* convertMetrics(source: MapSource): Iterable<Entries> {
  const metrics = need(source, 'mesh_metrics');
  const valueSize = COUNTER.size * possibleCpus();
  for (const { keys, values, count } of readEntries({ ...metrics, valueSize })) {
    const renumbered = new DataView(new ArrayBuffer(count * 4));
    for (let index = 0; index < count; index += 1) {
      const number = keys.getUint32(index * 4, true);
      const reason = Math.floor(number / DIRECTIONS.length);
      const direction = number % DIRECTIONS.length;
      const to = REASONS_1.get(reason) ?? reason;
      renumbered.setUint32(index * 4, to * DIRECTIONS.length + direction, true);
    }
    yield { keys: renumbered, values, count };
  }
}

/** A number for each frontend, the same whenever the same frontends are numbered. */
function numberFrontends(services: SourceMap): ReadonlyMap<string, number> {
  const frontends: string[] = [];
  for (const { keys, count } of readEntries(services)) {
    for (let index = 0; index < count; index += 1) {
      if (slotAt(keys, index) === 0) frontends.push(frontendAt(keys, index));
    }
  }
  return new Map([...new Set(frontends)].sort().map((frontend, index) => [frontend, index + 1]));
}

function slotAt(keys: DataView, index: number): number {
  return keys.getUint32(index * SERVICE_1.keySize + SERVICE_1.slot, true);
}

/** Bytes of the frontend in a service's key, as text. */
function frontendAt(keys: DataView, index: number): string {
  return textOf(keys, index * SERVICE_1.keySize, SERVICE_1.frontendSize);
}

/** The frontend that a socket's datagrams go to, as `frontendAt` has it. */
function frontendOfSocket(keys: DataView, offset: number): string {
  const addressAndPort = textOf(keys, offset + CHOICE_1.address, SERVICE_1.protocol);
  return `${addressAndPort}${String.fromCharCode(UDP, 0)}`;
}

function textOf(view: DataView, offset: number, length: number): string {
  return Buffer.from(view.buffer, view.byteOffset + offset, length).toString('latin1');
}

function need(source: MapSource, name: string): SourceMap {
  const map = source.maps.get(name);
  if (map === undefined) throw new Error(`${name} is not in ${source.folder}`);
  return map;
}
