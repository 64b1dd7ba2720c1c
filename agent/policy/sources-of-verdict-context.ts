/** What rules refer to: CIDR groups and Services, by name or labels. */
import type { Labels } from '../../mesh/wire/identity.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import type { EnforcementMode } from './enforcement-mode.ts';
import type { PeerMatch } from './rule.ts';
import { selectorMatches } from './selector.ts';
import type { GroupReference, ServiceMembers, VerdictContext } from './sources-of-verdict.ts';
import { kindOfIdentity } from './trace-view.ts';

/** Networks under a name. */
export interface GroupView {
  readonly name: string;
  readonly labels: Labels;
  /** Undefined: the group cannot be read, and there is no version of it that could. */
  readonly prefixes: readonly IpPrefix[] | undefined;
}

/** A Service of the own cluster. */
export interface ServiceView {
  readonly namespace: string;
  readonly name: string;
  readonly labels: Labels;
  /** Of its backends. */
  readonly addresses: readonly IpAddress[];
}

/** What a context is made of. */
export interface ContextSources {
  readonly mode: EnforcementMode;
  readonly allowLocalhost: boolean;
  groups(): Iterable<GroupView>;
  services(): Iterable<ServiceView>;
  /** Identity of an address; undefined: nobody has said one, so it is outside. */
  identityOf(address: IpAddress): number | undefined;
}

/** Makes a context that looks each reference up once. */
export function createVerdictContext(sources: ContextSources): VerdictContext {
  const groups = new Map<string, readonly GroupView[]>();
  const services = new Map<string, ServiceMembers>();
  const groupsOf = (wanted: GroupReference): readonly GroupView[] => {
    const key = JSON.stringify(wanted);
    const known = groups.get(key);
    if (known !== undefined) return known;
    const found = [...sources.groups()].filter(({ name, labels }) =>
      'name' in wanted ? name === wanted.name : selectorMatches(wanted.selector, labels),
    );
    groups.set(key, found);
    return found;
  };
  return {
    mode: sources.mode,
    allowLocalhost: sources.allowLocalhost,
    cidrsOf: (group) => groupsOf(group).flatMap(({ prefixes }) => prefixes ?? []),
    isUnreadable: (group) => groupsOf(group).some(({ prefixes }) => prefixes === undefined),
    backendsOf(service) {
      const key = JSON.stringify(service);
      const known = services.get(key) ?? membersOf(service, sources);
      services.set(key, known);
      return known;
    },
  };
}

function membersOf(
  wanted: Extract<PeerMatch, { kind: 'service' }>['service'],
  sources: ContextSources,
): ServiceMembers {
  const addresses = new Set<IpAddress>();
  const identities = new Set<number>();
  for (const service of sources.services()) {
    if (wanted.namespace !== undefined && wanted.namespace !== service.namespace) continue;
    const isMeant =
      'name' in wanted
        ? wanted.name === service.name
        : selectorMatches(wanted.selector, service.labels);
    if (!isMeant) continue;
    for (const address of service.addresses) {
      const identity = sources.identityOf(address);
      const kind = identity === undefined ? 'world' : kindOfIdentity(identity);
      if (kind === 'world') addresses.add(address);
      else if (kind === 'endpoint' && identity !== undefined) identities.add(identity);
    }
  }
  return { addresses, identities };
}
