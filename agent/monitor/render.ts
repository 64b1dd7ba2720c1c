/** Events as text for people: pure. `compact` is a line each, `dict` a block of `FIELD: value`. */
import type {
  LossPlace,
  LostEvent,
  MonitorEvent,
  PacketEvent,
  Party,
  ServiceEvent,
} from './event.ts';
import type { IcmpSummary, PacketSummary } from './packet.ts';

/** How to print. */
export interface RenderOptions {
  /** Terminals only. */
  readonly colours: boolean;
  /** Whether a line says which node it is from: several agents are listened to. */
  readonly withNode: boolean;
}

const COLOURS = { drop: 31, trace: 32, service: 36, lost: 33, 'policy-audit': 35 } as const;
const ESCAPE = '\u001b[';

const LOSS_REASONS: Readonly<Record<LossPlace, string>> = {
  'rate-limit': 'the node has more than it may tell in a second (--bpf-events-default-rate-limit)',
  ring: 'the agent was too slow (--monitor-buffer-size)',
  listener: 'this reader was too slow (--monitor-queue-size)',
};

/** One line, without its end; undefined for events that say nothing to people. */
export function renderCompact(event: MonitorEvent, options: RenderOptions): string | undefined {
  if (event.kind === 'start') return undefined;
  const time = event.time.slice('yyyy-mm-ddT'.length, -1);
  const kind = paint(event.kind.padEnd(7), COLOURS[event.kind], options.colours);
  const where = options.withNode ? ` ${event.node}` : '';
  return `${time}${where} ${kind} ${compactText(event)}`;
}

function compactText(event: Exclude<MonitorEvent, { kind: 'start' }>): string {
  switch (event.kind) {
    case 'drop':
    case 'trace':
    case 'policy-audit':
      return packetText(event);
    case 'service':
      return serviceText(event);
    case 'lost':
      return lossText(event);
    default:
      return event satisfies never;
  }
}

function packetText(event: PacketEvent): string {
  const { endpoint, advice } = event;
  const parts = [
    event.reason,
    event.direction,
    ...(endpoint === undefined ? [] : [`endpoint ${endpoint.id}`]),
    `${partyText(event.source)} -> ${partyText(event.destination)}`,
    transportText(event),
    ...(event.state === 'unknown' ? [] : [event.state]),
    `${event.length} bytes`,
    event.interface,
  ];
  return advice === undefined ? parts.join(' ') : `${parts.join(' ')}: ${advice}`;
}

function serviceText(event: ServiceEvent): string {
  const frontend = `${event.service ?? 'service'} ${addressText(event.destination)}`;
  const protocol = event.protocol ?? '';
  if (event.backend === undefined) {
    return `${event.reason} ${frontend} ${protocol} refused: ${event.advice ?? ''}`;
  }
  return `${event.reason} ${frontend} ${protocol} -> ${partyText(event.backend)}`;
}

function lossText({ where, of, count }: LostEvent): string {
  return `${count} ${of ?? ''} events lost: ${LOSS_REASONS[where]}`.replace('  ', ' ');
}

function partyText(party: Party): string {
  const who = [
    ...(party.pod === undefined ? [] : [party.pod]),
    ...(party.identity === undefined ? [] : [party.reserved ?? String(party.identity)]),
    ...(party.cluster === undefined ? [] : [party.cluster]),
  ];
  const address = addressText(party);
  return who.length === 0 ? address : `${address} (${who.join(', ')})`;
}

function addressText({ address, port }: Party): string {
  if (address === undefined) return '?';
  if (port === undefined) return address;
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

function transportText(
  packet: Pick<
    PacketEvent,
    'network' | 'protocol' | 'flags' | 'icmp' | 'isLaterFragment' | 'isCutOff'
  >,
): string {
  const parts = [packet.protocol ?? packet.network];
  if (packet.flags !== undefined) parts.push(packet.flags.join(',') || 'no flags');
  if (packet.icmp !== undefined) parts.push(icmpText(packet.icmp));
  if (packet.isLaterFragment) parts.push('fragment');
  if (packet.isCutOff) parts.push('(cut off)');
  return parts.join(' ');
}

function icmpText({ type, code, name, id, about }: IcmpSummary): string {
  const what = name ?? `type ${type} code ${code}`;
  if (id !== undefined) return `${what} id ${id}`;
  return about === undefined ? what : `${what} (about ${aboutText(about)})`;
}

function aboutText(packet: PacketSummary): string {
  const side = (address: string | undefined, port: number | undefined): string =>
    port === undefined ? (address ?? '?') : `${address} port ${port}`;
  return `${packet.protocol ?? packet.network} ${side(packet.source, packet.sourcePort)} -> ${side(packet.destination, packet.destinationPort)}`;
}

/** A block of lines, the last of them empty and without its end; undefined for events that say nothing to people. */
export function renderDict(event: MonitorEvent, options: RenderOptions): string | undefined {
  if (event.kind === 'start') return undefined;
  const rows = dictRows(event).filter(([, value]) => value !== undefined && value !== '');
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, value]) => {
    const isKind = name === 'KIND';
    const text = isKind ? paint(String(value), COLOURS[event.kind], options.colours) : value;
    return `${`${name}:`.padEnd(width + 1)} ${text}`;
  });
  return `${lines.join('\n')}\n`;
}

type Row = readonly [name: string, value: string | number | undefined];

function dictRows(event: Exclude<MonitorEvent, { kind: 'start' }>): Row[] {
  const common: Row[] = [
    ['TIME', event.time],
    ['NODE', event.node],
    ['KIND', event.kind],
  ];
  switch (event.kind) {
    case 'lost':
      return [...common, ['TEXT', lossText(event)]];
    case 'service':
      return [
        ...common,
        ['REASON', `${event.reason} (${event.reasonNumber})`],
        ['SERVICE', event.service],
        ['FRONTEND', addressText(event.destination)],
        ['PROTOCOL', event.protocol],
        ...(event.backend === undefined ? [] : partyRows('BACKEND', event.backend)),
        ['SOCKET', event.cookie],
        ['ADVICE', event.advice],
      ];
    case 'drop':
    case 'trace':
    case 'policy-audit':
      return [
        ...common,
        ['REASON', `${event.reason} (${event.reasonNumber})`],
        ['DIRECTION', event.direction],
        ['INTERFACE', event.interface],
        ['ENDPOINT', event.endpoint?.id],
        ['ENDPOINT POD', event.endpoint?.pod],
        ...partyRows('SOURCE', event.source),
        ...partyRows('DESTINATION', event.destination),
        ['PROTOCOL', transportText(event)],
        ['STATE', event.state],
        ['LENGTH', event.length],
        ['PACKET', event.packet],
        ['ADVICE', event.advice],
      ];
    default:
      return event satisfies never;
  }
}

function partyRows(title: string, party: Party): Row[] {
  const identity =
    party.identity === undefined
      ? undefined
      : `${party.identity}${party.reserved === undefined ? '' : ` (${party.reserved})`}`;
  return [
    [title, addressText(party)],
    [`${title} IDENTITY`, identity],
    [`${title} CLUSTER`, party.cluster],
    [`${title} POD`, party.pod],
    [`${title} LABELS`, party.labels?.join(' ')],
  ];
}

function paint(text: string, colour: number, colours: boolean): string {
  return colours ? `${ESCAPE}${colour}m${text}${ESCAPE}0m` : text;
}
