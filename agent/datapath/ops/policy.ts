import {
  DIRECTIONS,
  POLICY_DENY,
  POLICY_KEY,
  POLICY_KNOWN_ONLY,
  POLICY_PROTOCOL_BITS,
  POLICY_STATIC_BITS,
  POLICY_VALUE,
} from '../../../mesh/wire/maps.ts';
import { raisePolicyRevision } from '../config.ts';
import { DatapathError } from '../datapath-error.ts';
import { type DatapathTable, KNOWN_TO, type PolicyEntry } from '../desired.ts';
import { createRowMap, type RowCodec, throwFirst } from '../map.ts';
import type { OpenMaps } from '../object.ts';
import { inPolicyOrder } from '../policy-order.ts';

type PolicyKey = Omit<PolicyEntry, 'verdict'>;

/**
 * Policy rows of all endpoints of the node, in one prefix trie. When a change may deny what was allowed, flows are judged
 * again.
 */
export function openPolicyTable(
  maps: OpenMaps,
): DatapathTable<PolicyEntry, Omit<PolicyEntry, 'verdict'>> {
  const map = createRowMap(maps.get('mesh_policy'), policyCodec);
  const config = maps.get('mesh_config');
  /** What the kernel has now; undefined: nothing, or no such row can be. */
  const verdictOf = (key: PolicyKey): PolicyEntry['verdict'] | undefined =>
    policyKeyProblem(key) === undefined ? map.get(key)?.verdict : undefined;
  return {
    name: 'policy',
    apply({ upserts, deletes }) {
      const failures = [...map.upsert(upserts), ...map.remove(deletes)];
      if (
        deletes.length > 0 ||
        upserts.some(({ verdict, knownOnly }) => verdict === 'deny' || knownOnly === true)
      ) {
        raisePolicyRevision(config);
      }
      throwFirst(failures);
    },
    rows: () => map.rows(),
    keyOf: policyKeyOf,
    inOrder: (changes) => inPolicyOrder(changes, verdictOf),
  };
}

function policyKeyOf(key: PolicyKey): string {
  const port = maskPort(key.port, key.portPrefixBits);
  return `${key.endpointId} ${key.direction} ${key.identity} ${key.protocol} ${port}/${key.portPrefixBits}`;
}

function maskPort(port: number, bits: number): number {
  return port & (0xffff << (16 - bits)) & 0xffff;
}

const policyCodec: RowCodec<PolicyEntry, PolicyKey> = {
  keySize: POLICY_KEY.size,
  valueSize: POLICY_VALUE.size,
  writeKey(view, offset, key) {
    checkPolicyKey(key);
    const { fields } = POLICY_KEY;
    view.setUint32(offset + fields.prefixlen, POLICY_STATIC_BITS + policyWidth(key), true);
    view.setUint32(offset + fields.identity, key.identity, true);
    view.setUint16(offset + fields.endpointId, key.endpointId, true);
    view.setUint8(offset + fields.direction, DIRECTIONS.indexOf(key.direction));
    view.setUint8(offset + fields.protocol, key.protocol);
    view.setUint16(offset + fields.port, maskPort(key.port, key.portPrefixBits));
  },
  writeValue(view, offset, row) {
    view.setUint8(offset + POLICY_VALUE.fields.flags, flagsOf(row));
    view.setUint8(offset + POLICY_VALUE.fields.width, policyWidth(row));
  },
  readRow(keys, keyOffset, values, valueOffset) {
    const { fields } = POLICY_KEY;
    const width = keys.getUint32(keyOffset + fields.prefixlen, true) - POLICY_STATIC_BITS;
    const flags = values.getUint8(valueOffset + POLICY_VALUE.fields.flags);
    const direction = keys.getUint8(keyOffset + fields.direction);
    return {
      endpointId: keys.getUint16(keyOffset + fields.endpointId, true),
      direction: direction === 0 ? 'ingress' : 'egress',
      identity: keys.getUint32(keyOffset + fields.identity, true),
      protocol: keys.getUint8(keyOffset + fields.protocol),
      port: keys.getUint16(keyOffset + fields.port),
      portPrefixBits: Math.max(0, width - POLICY_PROTOCOL_BITS),
      verdict: (flags & POLICY_DENY) === 0 ? 'allow' : 'deny',
      ...((flags & POLICY_KNOWN_ONLY) === 0 ? {} : { knownOnly: true }),
    };
  },
  describe: (key) => `policy row ${policyKeyOf(key)}`,
};

function flagsOf({ verdict, knownOnly }: PolicyEntry): number {
  if (verdict === 'deny') return POLICY_DENY;
  return knownOnly === true ? POLICY_KNOWN_ONLY : 0;
}

/** Bits of protocol and port that count. */
function policyWidth(key: PolicyKey): number {
  return key.protocol === 0 ? 0 : POLICY_PROTOCOL_BITS + key.portPrefixBits;
}

function checkPolicyKey(key: PolicyKey): void {
  const problem = policyKeyProblem(key);
  if (problem !== undefined) {
    throw new DatapathError(
      'bad-row',
      `cannot write policy row ${JSON.stringify(key)}: ${problem}`,
    );
  }
}

function policyKeyProblem(key: PolicyKey): string | undefined {
  if (!isWithin(key.endpointId, KNOWN_TO, 0xffff)) return 'endpointId must be 0 to 65535';
  if (!isWithin(key.identity, 0, 0xffffffff)) return 'identity must fit 32 bits';
  if (!isWithin(key.protocol, 0, 255)) return 'protocol must be 0 to 255';
  if (!isWithin(key.portPrefixBits, 0, 16)) return 'portPrefixBits must be 0 to 16';
  if (!isWithin(key.port, 0, 0xffff)) return 'port must be 0 to 65535';
  if (key.protocol === 0 && key.portPrefixBits !== 0) return 'a port needs a protocol';
  return undefined;
}

function isWithin(value: number, first: number, last: number): boolean {
  return Number.isInteger(value) && value >= first && value <= last;
}
