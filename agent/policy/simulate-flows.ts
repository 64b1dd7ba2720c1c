/** Flows that were recorded: the lines of JSON that `clustermesh monitor -o json` prints. */
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { protocolOf } from './trace-port.ts';
import { kindOfIdentity, type PartyInfo } from './trace-view.ts';

/** A flow between two sides, from whoever began it. */
export interface RecordedFlow {
  readonly from: PartyInfo;
  readonly to: PartyInfo;
  /** IANA number. */
  readonly protocol: number;
  /** Destination port; of ICMP the type. */
  readonly port: number;
}

/** What a file holds. */
export interface RecordedFlows {
  /** Each once. */
  readonly flows: readonly RecordedFlow[];
  /** Events that tell of no flow: starts, losses, calls of services, fragments, errors of other flows. */
  readonly passedOver: number;
  /** Lines that are no event, by their number from 1, with why. */
  readonly unreadable: readonly { readonly line: number; readonly why: string }[];
}

/** Protocols as events name them. */
const NAMES: Readonly<Record<string, string>> = { ICMPv4: 'ICMP' };

/** Collects flows of lines, which come one by one. */
export function createFlowReader(): {
  add(line: number, text: string): void;
  result(): RecordedFlows;
} {
  const flows = new Map<string, RecordedFlow>();
  const unreadable: { line: number; why: string }[] = [];
  let passedOver = 0;
  return {
    add(line, text) {
      if (text.trim() === '') return;
      try {
        const flow = flowOf(JSON.parse(text));
        if (flow === undefined) passedOver += 1;
        else flows.set(flowKey(flow), flow);
      } catch (error) {
        unreadable.push({ line, why: error instanceof Error ? error.message : String(error) });
      }
    },
    result: () => ({ flows: [...flows.values()], passedOver, unreadable }),
  };
}

/** Text that is equal for flows that policies cannot tell apart. */
function flowKey({ from, to, protocol, port }: RecordedFlow): string {
  const side = ({ identity, address, kind }: PartyInfo): string =>
    kind === 'world' ? `${address}` : `${identity}/${address}`;
  return `${side(from)} ${side(to)} ${protocol}/${port}`;
}

/** The flow that an event tells of; undefined for one that tells of none. Throws an Error for what is no event. */
function flowOf(event: unknown): RecordedFlow | undefined {
  if (!isRecord(event) || typeof event.kind !== 'string') {
    throw new Error('expected an event as `clustermesh monitor -o json` prints it');
  }
  const isPacket = ['drop', 'trace', 'policy-audit'].includes(event.kind);
  if (!isPacket || event.isLaterFragment === true || event.state === 'related') return undefined;
  const { source, destination, icmp } = event;
  if (!isRecord(source) || !isRecord(destination)) {
    throw new Error(`expected source and destination in an event of kind ${event.kind}`);
  }
  if (typeof event.protocol !== 'string') return undefined;
  const protocol = protocolOf(NAMES[event.protocol] ?? event.protocol);
  if (protocol === undefined) return undefined;
  const [first, second] = event.state === 'reply' ? [destination, source] : [source, destination];
  const port = isRecord(icmp) ? icmp.type : second.port;
  // An answer tells the type of its own message, not that of the question.
  if (typeof port !== 'number' || (isRecord(icmp) && event.state === 'reply')) return undefined;
  const from = partyOfEvent(first);
  const to = partyOfEvent(second);
  return from === undefined || to === undefined ? undefined : { from, to, protocol, port };
}

/** Undefined where an event does not say who it was. An identity of 0: whoever has the address. */
function partyOfEvent(side: Readonly<Record<string, unknown>>): PartyInfo | undefined {
  const address = typeof side.address === 'string' ? parseIpAddress(side.address) : undefined;
  const identity = typeof side.identity === 'number' ? side.identity : 0;
  if (identity === 0 && address === undefined) return undefined;
  const kind = kindOfIdentity(identity);
  return {
    cluster: kind !== 'world' && typeof side.cluster === 'string' ? side.cluster : undefined,
    node: undefined,
    pod: typeof side.pod === 'string' ? side.pod : undefined,
    address,
    kind,
    identity,
    labels: Array.isArray(side.labels) ? side.labels.map(String) : [],
    nodeLabels: [],
    namedPorts: [],
  };
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
