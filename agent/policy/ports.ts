/** Ports of either kind of policy. */
import { protocolNumber } from '../../mesh/wire/maps.ts';
import { excerpt } from '../../mesh/wire/wire-error.ts';
import { isAbsent, recordAt, refuseOthers } from './manifest-field.ts';
import { PolicyError } from './policy-error.ts';
import type { PortMatch } from './rule.ts';

const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;
const FIELDS = new Set(['port', 'endPort', 'protocol']);
/** A name of a port as IANA registers them: a letter is in it, which is what tells it from a number. */
const SERVICE_NAME = /^(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*$/;
const MAX_NAME_LENGTH = 15;
/** Thousands of ports of one rule would each become a row for each of its peers. */
const MAX_PORTS = 1_000;

/** What the two kinds of policies say differently. */
export interface PortDialect {
  readonly path: string;
  /**
   * `kubernetes`: TCP unless it is said, no port means every one, 0 is none. `cilium`: each of TCP, UDP and SCTP unless
   * it is said, 0 means every port and none is a mistake (`PortProtocol` in Cilium's `pkg/policy/api`).
   */
  readonly dialect: 'kubernetes' | 'cilium';
}

/** Parses one `{ port, endPort, protocol }`. Throws PolicyError. */
export function parsePort(value: unknown, options: PortDialect): PortMatch[] {
  const { path, dialect } = options;
  const object = recordAt(value, path);
  refuseOthers(object, FIELDS, path);
  const protocols = protocolsOf(object.protocol, options);
  const port = readPort(object.port, options);
  const end = isAbsent(object.endPort) ? 0 : portNumber(object.endPort, `${path}.endPort`);
  if (typeof port === 'string' || port === undefined || port === 0) {
    if (end !== 0)
      throw new PolicyError('invalid', `${path}.endPort`, 'needs the number of a port');
    if (typeof port === 'string') return namedPorts(protocols, port);
    return protocols.map((protocol) => ({ kind: 'block', protocol, port: 0, portPrefixBits: 0 }));
  }
  // Kubernetes refuses an end of 0; to Cilium it is none.
  const last = end === 0 && dialect === 'cilium' ? port : isAbsent(object.endPort) ? port : end;
  if (last < port) {
    throw new PolicyError('invalid', `${path}.endPort`, `must not be below port ${port}`);
  }
  return protocols.flatMap((protocol) => portBlocks(protocol, port, last));
}

/** Throws PolicyError for a rule that names too many ports; `path` is where they stand. */
export function checkPortCount(count: number, path: string): void {
  if (count <= MAX_PORTS) return;
  throw new PolicyError(
    'unsupported',
    path,
    `brings the rule to ${count} ports, and this version takes ${MAX_PORTS}: divide it`,
  );
}

/** Splits an inclusive range of ports into aligned blocks, the fewest there are (at most 30). */
export function portBlocks(protocol: number, first: number, last: number): PortMatch[] {
  const blocks: PortMatch[] = [];
  for (let start = first; start <= last; ) {
    let size = 1;
    while (start % (size * 2) === 0 && start + size * 2 - 1 <= last && size < 65_536) size *= 2;
    blocks.push({ kind: 'block', protocol, port: start, portPrefixBits: 16 - Math.log2(size) });
    start += size;
  }
  return blocks;
}

function namedPorts(protocols: readonly number[], name: string): PortMatch[] {
  const [only] = protocols;
  return [
    { kind: 'named', protocol: protocols.length === 1 && only !== undefined ? only : 0, name },
  ];
}

function protocolsOf(value: unknown, { path, dialect }: PortDialect): number[] {
  const isCilium = dialect === 'cilium';
  const text = isAbsent(value) || (isCilium && value === '') ? (isCilium ? 'ANY' : 'TCP') : value;
  // Cilium takes them in whatever case (`ParseL4Proto`), Kubernetes does not.
  const wanted = isCilium && typeof text === 'string' ? text.toUpperCase() : text;
  if (isCilium && wanted === 'ANY') return PROTOCOLS.map(protocolNumber);
  const known = PROTOCOLS.find((name) => name === wanted);
  if (known !== undefined) return [protocolNumber(known)];
  const choice = isCilium ? [...PROTOCOLS, 'ANY'] : PROTOCOLS;
  throw new PolicyError(
    'unsupported',
    `${path}.protocol`,
    `is ${excerpt(value)}: in this version it must be one of ${choice.join(', ')}`,
  );
}

/** A number, a name, or undefined for a port that is not said. */
function readPort(value: unknown, { path, dialect }: PortDialect): number | string | undefined {
  const at = `${path}.port`;
  if (isAbsent(value)) {
    if (dialect === 'kubernetes') return undefined;
    throw new PolicyError('invalid', at, 'must be there; 0 means every port');
  }
  if (typeof value === 'string' && !/^\d+$/.test(value)) return portName(value, at, dialect);
  const port = portNumber(value, at);
  if (port === 0 && dialect === 'kubernetes') {
    throw new PolicyError('invalid', at, 'must be 1 to 65535; without it every port is meant');
  }
  return port;
}

function portName(value: string, path: string, dialect: PortDialect['dialect']): string {
  const name = dialect === 'cilium' ? value.toLowerCase() : value;
  if (name.length <= MAX_NAME_LENGTH && SERVICE_NAME.test(name)) return name;
  throw new PolicyError(
    'invalid',
    path,
    `is ${excerpt(value)}: expected a number of 0 to 65535, or a name of up to 15 letters, digits and "-"`,
  );
}

/** A number, or its decimal digits. Leading zeros are refused: to Cilium they mean octal. */
function portNumber(value: unknown, path: string): number {
  const isNumber = typeof value === 'number' && Number.isInteger(value);
  if (!isNumber && !(typeof value === 'string' && /^(0|[1-9]\d*)$/.test(value))) {
    throw new PolicyError('invalid', path, `is ${excerpt(value)}: expected a port number`);
  }
  const port = Number(value);
  if (port < 0 || port > 65_535) throw new PolicyError('invalid', path, 'must be 0 to 65535');
  return port;
}
