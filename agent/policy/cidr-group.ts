/** A CiliumCIDRGroup: networks under a name, which policies refer to. */
import { type Labels, sortLabels } from '../../mesh/wire/identity.ts';
import { type IpPrefix, ipFamily, parseIpPrefix, splitPrefix } from '../../mesh/wire/ip.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { parseCidr } from './cidr-peer.ts';
import { fieldPath, isAbsent, listAt, recordAt, refuseOthers } from './manifest-field.ts';
import { PolicyError } from './policy-error.ts';
import type { PolicyProblem } from './rule.ts';

/** A group as the compiler takes it. */
export interface CidrGroup {
  readonly name: string;
  readonly generation: number;
  /** By which a `cidrGroupSelector` finds it. */
  readonly labels: Labels;
  /**
   * Each once, and none of length 0: the world stands here as the two halves of its family. Undefined: the group cannot be
   * read. A last good version, if there was one, stays in force; without one, what a rule allows to it is allowed to
   * nobody, and what it denies to it is denied to everybody.
   */
  readonly prefixes: readonly IpPrefix[] | undefined;
  readonly problems: readonly PolicyProblem[];
}

const SPEC_FIELDS = new Set(['externalCIDRs']);
/** An object of Kubernetes holds about this many. */
const MAX_CIDRS = 100_000;
const HALVES: Readonly<Record<4 | 6, readonly IpPrefix[]>> = {
  4: [parseIpPrefix('0.0.0.0/1'), parseIpPrefix('128.0.0.0/1')],
  6: [parseIpPrefix('::/1'), parseIpPrefix('8000::/1')],
};

/** Parses a group. Never throws: one with a network that cannot be read is not used at all, for a deny would miss that. */
export function parseCidrGroup(policy: LocalPolicy): CidrGroup {
  const { name, generation } = policy;
  try {
    const manifest = recordAt(policy.manifest, 'the manifest');
    const labels = labelsOf(manifest.metadata);
    return { name, generation, labels, prefixes: prefixesOf(manifest.spec), problems: [] };
  } catch (error) {
    if (!(error instanceof PolicyError)) throw error;
    const { path } = error;
    const message = `${error.message}: until it is corrected the group is not used, or as it was`;
    return { name, generation, labels: [], prefixes: undefined, problems: [{ path, message }] };
  }
}

function prefixesOf(value: unknown): IpPrefix[] {
  const spec = recordAt(value, 'spec');
  refuseOthers(spec, SPEC_FIELDS, 'spec');
  const path = 'spec.externalCIDRs';
  const prefixes = new Set<IpPrefix>();
  for (const [index, item] of listAt(spec.externalCIDRs, path, MAX_CIDRS).entries()) {
    const prefix = parseCidr(item, `${path}[${index}]`, { bareAddress: true });
    const { length } = splitPrefix(prefix);
    for (const part of length === 0 ? HALVES[ipFamily(prefix)] : [prefix]) prefixes.add(part);
  }
  return [...prefixes];
}

function labelsOf(metadata: unknown): Labels {
  const { labels } = isAbsent(metadata) ? {} : recordAt(metadata, 'metadata');
  if (isAbsent(labels)) return [];
  return sortLabels(
    Object.entries(recordAt(labels, 'metadata.labels')).map(([key, value]) => {
      if (typeof value === 'string') return { source: 'k8s', key, value };
      throw new PolicyError('invalid', fieldPath('metadata.labels', key), 'must be a text');
    }),
  );
}
