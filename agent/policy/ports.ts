import { protocolNumber } from '../../mesh/wire/maps.ts';
import { PolicyError } from './policy-error.ts';
import { type PortMatch, portBlocks } from './rule.ts';
import { recordAt } from './selector.ts';

const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;
const FIELDS = new Set(['port', 'endPort', 'protocol']);

/**
 * Parses one `{ port, endPort, protocol }` of either kind of policy. `defaultProtocol` holds when none is given; `ANY`
 * means each of TCP, UDP and SCTP, as in Cilium. No port, or 0: every port. Throws PolicyError.
 */
export function parsePort(
  value: unknown,
  options: { path: string; defaultProtocol: 'TCP' | 'ANY' },
): PortMatch[] {
  const { path } = options;
  const object = recordAt(value, path);
  for (const field of Object.keys(object)) {
    if (!FIELDS.has(field)) {
      throw new PolicyError('unsupported', `${path}.${field}`, 'is not supported by this version');
    }
  }
  const protocols = protocolsOf(object.protocol ?? options.defaultProtocol, `${path}.protocol`);
  const first = portNumber(object.port, `${path}.port`);
  const end = portNumber(object.endPort, `${path}.endPort`);
  if (first === 0) {
    if (end !== 0) throw new PolicyError('invalid', `${path}.endPort`, 'needs a port to begin at');
    return protocols.map((protocol) => ({ protocol, port: 0, portPrefixBits: 0 }));
  }
  const last = end === 0 ? first : end;
  if (last < first) {
    throw new PolicyError('invalid', `${path}.endPort`, `must not be below port ${first}`);
  }
  return protocols.flatMap((protocol) => portBlocks(protocol, first, last));
}

function protocolsOf(value: unknown, path: string): number[] {
  if (value === 'ANY') return PROTOCOLS.map(protocolNumber);
  const known = PROTOCOLS.find((name) => name === value);
  if (known !== undefined) return [protocolNumber(known)];
  throw new PolicyError('unsupported', path, `must be one of ${PROTOCOLS.join(', ')}`);
}

/** A port as a number or decimal text; 0 when absent. A name would need the ports that containers declare. */
function portNumber(value: unknown, path: string): number {
  if (value === undefined || value === null || value === '') return 0;
  if (typeof value === 'string' && !/^\d+$/.test(value)) {
    throw new PolicyError('unsupported', path, 'is a port name: this version needs the number');
  }
  const port = Number(value);
  if ((typeof value !== 'number' && typeof value !== 'string') || !Number.isInteger(port)) {
    throw new PolicyError('invalid', path, 'must be a port number');
  }
  if (port < 0 || port > 65_535) throw new PolicyError('invalid', path, 'must be 0 to 65535');
  return port;
}
