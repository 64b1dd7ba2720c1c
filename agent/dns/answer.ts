/** A question's answer from what is known of Services. Pure. */
import { type Answer, decode, encode, type Packet, type Question } from 'dns-packet';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { PortMap } from '../../mesh/wire/service.ts';
import type { NameBook, NamedService } from './name-book.ts';
import { type AskedName, dashedAddress, readName, type ZoneDomains } from './names.ts';

/** Seconds that an answer may be kept: services come and go. */
const TTL_SECONDS = 5;
/** Records of one answer: of thousands of backends these are enough for any client. */
const MAX_RECORDS = 200;
const HEADER_BYTES = 12;
/** What every client takes by UDP, and what needs no fragments on any usual path. */
const LEAST_UDP_BYTES = 512;
const MOST_UDP_BYTES = 1232;
const MOST_TCP_BYTES = 65_535;
const AUTHORITATIVE = 1 << 10;
const TRUNCATED = 1 << 9;
const RECURSION_DESIRED = 1 << 8;

/** Codes of RFC 1035 and RFC 6891. */
const RCODES = {
  good: 0,
  malformed: 1,
  failed: 2,
  noName: 3,
  notKnown: 4,
  refused: 5,
  badVersion: 16,
} as const;

/** What a name is answered with. */
interface Reply {
  readonly code: keyof typeof RCODES;
  readonly records: readonly Answer[];
  /** Domain of the zone that the name is in; undefined: in none of ours. */
  readonly domain?: string;
}

/** What is known, and how questions come. */
export interface AnswerOptions {
  readonly names: Pick<
    NameBook,
    'isComplete' | 'serial' | 'ownName' | 'service' | 'setService' | 'hasNamespace'
  >;
  readonly domains: ZoneDomains;
  readonly transport: 'udp' | 'tcp';
}

/**
 * The answer to a message, as bytes; undefined: it is no question at all, and nobody is to be answered. Never throws, whatever
 * the bytes are. Names outside of our zones are refused, so that a resolver asks somebody else.
 */
export function answerMessage(message: Buffer, options: AnswerOptions): Buffer | undefined {
  // A message that is an answer itself would be answered for ever, and one without a header has nobody to be answered.
  if (message.length < HEADER_BYTES || ((message[2] ?? 0) & 0x80) !== 0) return undefined;
  const id = message.readUInt16BE(0);
  const opcode = ((message[2] ?? 0) >> 3) & 0xf;
  const flags = message.readUInt16BE(2) & RECURSION_DESIRED;
  const error = (code: keyof typeof RCODES): Buffer => {
    // The four bits of the opcode are given back as they came.
    return bytesOf({ id, type: 'response', flags: flags | (opcode << 11) | RCODES[code] });
  };
  if (opcode !== 0) return error('notKnown');
  let asked: Packet;
  try {
    asked = decode(message);
  } catch {
    return error('malformed');
  }
  const [question, ...others] = asked.questions ?? [];
  if (question === undefined || others.length > 0) return error('malformed');
  try {
    return respond({ id, flags, question, asked }, options);
  } catch {
    // A name that was read and cannot be written: labels with dots or unusual bytes.
    return error('malformed');
  }
}

function respond(
  to: {
    readonly id: number;
    readonly flags: number;
    readonly question: Question;
    readonly asked: Packet;
  },
  options: AnswerOptions,
): Buffer {
  const { id, question, asked } = to;
  const extension = asked.additionals?.find((record) => record.type === 'OPT');
  const version = extension?.type === 'OPT' ? extension.ednsVersion : 0;
  const reply =
    version === 0 ? replyTo(question, options) : ({ code: 'badVersion', records: [] } as const);
  const code = RCODES[reply.code];
  const isOurs = 'domain' in reply && reply.domain !== undefined;
  const flags = to.flags | (isOurs ? AUTHORITATIVE : 0) | (code & 0xf);
  const isEmpty = reply.records.length === 0;
  const hasSoa = isOurs && isEmpty && (reply.code === 'good' || reply.code === 'noName');
  const packet: Packet = {
    id,
    type: 'response',
    flags,
    questions: [question],
    answers: [...reply.records],
    authorities:
      hasSoa && reply.domain !== undefined ? [soaOf(reply.domain, options.names.serial)] : [],
    additionals: extension === undefined ? [] : [optRecord(code)],
  };
  const whole = bytesOf(packet);
  if (whole.length <= mostBytes(extension, options.transport)) return whole;
  return bytesOf({ ...packet, flags: flags | TRUNCATED, answers: [] });
}

function mostBytes(extension: Answer | undefined, transport: 'udp' | 'tcp'): number {
  if (transport === 'tcp') return MOST_TCP_BYTES;
  const wanted = extension?.type === 'OPT' ? extension.udpPayloadSize : LEAST_UDP_BYTES;
  return Math.min(MOST_UDP_BYTES, Math.max(LEAST_UDP_BYTES, wanted));
}

function replyTo(question: Question, options: AnswerOptions): Reply {
  const { names, domains } = options;
  if (question.class !== undefined && question.class !== 'IN')
    return { code: 'refused', records: [] };
  const asked = readName(question.name, domains);
  if (asked === undefined) return { code: 'refused', records: [] };
  const domain = domains[asked.zone];
  // What is not known yet must not be said not to exist.
  if (!names.isComplete) return { code: 'failed', records: [], domain };
  if (asked.kind === 'zone') {
    const isApex = question.name.toLowerCase().replace(/\.$/, '') === domain;
    const wantsSoa = isApex && (question.type === 'SOA' || isAny(question));
    return { code: 'good', records: wantsSoa ? [soaOf(domain, names.serial)] : [], domain };
  }
  const found = findRecords(asked, question, options);
  return found === undefined
    ? { code: 'noName', records: [], domain }
    : found === 'elsewhere'
      ? { code: 'failed', records: [], domain }
      : { code: 'good', records: found.slice(0, MAX_RECORDS), domain };
}

/** Records of a name and type, empty where it has none of the type; undefined: there is no such name. */
function findRecords(
  asked: Exclude<AskedName, { kind: 'zone' }>,
  question: Question,
  options: AnswerOptions,
): readonly Answer[] | undefined | 'elsewhere' {
  const { names, domains } = options;
  switch (asked.kind) {
    case 'nothing':
      return undefined;
    case 'namespace':
      return names.hasNamespace(asked.namespace) ? [] : undefined;
    case 'service':
    case 'port':
    case 'endpoint': {
      const { namespace, service: name } = asked;
      const service =
        asked.zone === 'cluster'
          ? names.service(namespace, name)
          : names.setService(namespace, name);
      if (service === undefined) return undefined;
      // Where it leads is not told to agents.
      if (service.local.type === 'ExternalName') return 'elsewhere';
      const base = `${name}.${namespace}.svc.${domains[asked.zone]}`;
      const answer = { service, base, question, options };
      if (asked.kind === 'service') return recordsOfService(asked, answer);
      return asked.kind === 'port'
        ? recordsOfPort(asked, answer)
        : recordsOfEndpoint(asked, answer);
    }
    default:
      return asked satisfies never;
  }
}

interface Found {
  readonly service: NamedService;
  /** The service's own name. */
  readonly base: string;
  readonly question: Question;
  readonly options: AnswerOptions;
}

type Named<Kind extends AskedName['kind']> = Extract<AskedName, { kind: Kind }>;

function recordsOfService(asked: Named<'service'>, found: Found): readonly Answer[] {
  const { local } = found.service;
  const addresses = local.headless
    ? endpointsOf(asked, found).map(({ address }) => address)
    : local.clusterIps;
  return addressRecords(found.question, addresses);
}

function recordsOfPort(asked: Named<'port'>, found: Found): readonly Answer[] | undefined {
  const { service, base, question } = found;
  const { local } = service;
  const port = local.ports.find(
    ({ name, protocol }) => name.toLowerCase() === asked.port && protocol === asked.protocol,
  );
  if (port === undefined) return undefined;
  const wantsSrv = question.type === 'SRV' || isAny(question);
  if (!wantsSrv) return [];
  if (!local.headless) return [srvRecord(question.name, base, port.port)];
  return endpointsOf(asked, found).flatMap(({ address, ports, cluster }) => {
    const own = ports.get(port.name);
    if (own === undefined || own.protocol !== asked.protocol) return [];
    const place = asked.zone === 'set' ? `${cluster}.` : '';
    return [srvRecord(question.name, `${dashedAddress(address)}.${place}${base}`, own.port)];
  });
}

function recordsOfEndpoint(asked: Named<'endpoint'>, found: Found): readonly Answer[] | undefined {
  if (!found.service.local.headless) return undefined;
  const isThere = endpointsOf(asked, found).some(
    ({ address, cluster }) =>
      address === asked.address && (asked.cluster === undefined || asked.cluster === cluster),
  );
  return isThere ? addressRecords(found.question, [asked.address]) : undefined;
}

/** Backends of a headless service: the own cluster's, and in the set of clusters those of the others that share them. */
function endpointsOf(
  { zone }: { readonly zone: AskedName['zone'] },
  { service, options }: Found,
): { readonly address: IpAddress; readonly ports: PortMap; readonly cluster: string }[] {
  const listed = (backends: ReadonlyMap<IpAddress, PortMap>, cluster: string) =>
    [...backends].map(([address, ports]) => ({ address, ports, cluster }));
  const own = listed(service.local.backends, options.names.ownName ?? '');
  if (zone === 'cluster') return own;
  return [...own, ...service.remotes.flatMap(({ backends, cluster }) => listed(backends, cluster))];
}

function addressRecords(question: Question, addresses: readonly IpAddress[]): Answer[] {
  return addresses.flatMap((address) => {
    const type = ipFamily(address) === 4 ? 'A' : 'AAAA';
    if (question.type !== type && !isAny(question)) return [];
    return [{ type, name: question.name, ttl: TTL_SECONDS, class: 'IN', data: address } as const];
  });
}

function srvRecord(name: string, target: string, port: number): Answer {
  const data = { priority: 0, weight: 100, port, target };
  return { type: 'SRV', name, ttl: TTL_SECONDS, class: 'IN', data };
}

function soaOf(domain: string, serial: number): Answer {
  const data = {
    mname: `ns.dns.${domain}`,
    rname: `hostmaster.${domain}`,
    serial,
    refresh: 7200,
    retry: 1800,
    expire: 86_400,
    minimum: TTL_SECONDS,
  };
  return { type: 'SOA', name: domain, ttl: TTL_SECONDS, class: 'IN', data };
}

function optRecord(code: number): Answer {
  return {
    type: 'OPT',
    name: '.',
    udpPayloadSize: MOST_UDP_BYTES,
    extendedRcode: code >> 4,
    ednsVersion: 0,
    flags: 0,
    flag_do: false,
    options: [],
  };
}

/** `dns-packet` gives types that it has no name for as `UNKNOWN_<number>`, and this one as `ANY`. */
function isAny({ type }: { readonly type: string }): boolean {
  return type === 'ANY' || type === 'UNKNOWN_255';
}

function bytesOf(packet: Packet): Buffer {
  return encode(packet);
}
