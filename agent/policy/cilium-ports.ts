/** Ports of a rule of Cilium's kinds. */
import { parseIcmps } from './cilium-icmp.ts';
import { isAbsent, listAt, recordAt, refuseOthers } from './manifest-field.ts';
import { PolicyError } from './policy-error.ts';
import { checkPortCount, parsePort } from './ports.ts';
import { ANY_PORT, type PortMatch } from './rule.ts';

const FIELDS = new Set(['ports', 'rules']);

/** Ports of a rule. `areNamed`: there is something besides the peers, and it limits what they are allowed. */
export interface RulePorts {
  readonly ports: readonly PortMatch[];
  readonly areNamed: boolean;
}

/**
 * Parses `toPorts` and `icmps` of a rule. Without either: every port. Parts of layer 7 are refused: an allow of a port that
 * leaves them out would be wider. Throws PolicyError.
 */
export function parseRulePorts(rule: Readonly<Record<string, unknown>>, path: string): RulePorts {
  const toPorts = listAt(rule.toPorts, `${path}.toPorts`);
  const icmps = listAt(rule.icmps, `${path}.icmps`);
  if (toPorts.length > 0 && icmps.length > 0) {
    throw new PolicyError(
      'invalid',
      `${path}.icmps`,
      'must not stand beside toPorts: write a rule for each',
    );
  }
  if (toPorts.length === 0 && icmps.length === 0) return { ports: [ANY_PORT], areNamed: false };
  if (icmps.length > 0) return { ports: parseIcmps(icmps, `${path}.icmps`), areNamed: true };
  return { ports: parseToPorts(toPorts, `${path}.toPorts`), areNamed: true };
}

function parseToPorts(list: readonly unknown[], path: string): PortMatch[] {
  let count = 0;
  return list.flatMap((item, index) => {
    const at = `${path}[${index}]`;
    const object = recordAt(item, at);
    refuseOthers(object, FIELDS, at);
    refuseLayer7(object.rules, `${at}.rules`);
    const ports = listAt(object.ports, `${at}.ports`);
    count += ports.length;
    checkPortCount(count, `${at}.ports`);
    return ports.flatMap((port, number) =>
      parsePort(port, { path: `${at}.ports[${number}]`, dialect: 'cilium' }),
    );
  });
}

/** An empty object says nothing of layer 7 (`L7Rules.IsEmpty`). */
function refuseLayer7(value: unknown, path: string): void {
  if (isAbsent(value)) return;
  for (const [protocol, rules] of Object.entries(recordAt(value, path))) {
    if (isAbsent(rules)) continue;
    throw new PolicyError(
      'unsupported',
      path,
      `${protocol.slice(0, 20)}: rules of layer 7 are not supported by this version`,
    );
  }
}
