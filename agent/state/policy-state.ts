import type { Labels } from '../../mesh/wire/identity.ts';
import {
  clusterIdOfIdentity,
  type MaxConnectedClusters,
  type NumericIdentity,
  parseNumericIdentity,
  reservedIdentity,
} from '../../mesh/wire/ids.ts';
import { type IpAddress, type IpPrefix, ipFamily, makePrefix } from '../../mesh/wire/ip.ts';
import type { EndpointEntry, PolicyEntry } from '../datapath/desired.ts';
import {
  compileEndpoint,
  type EndpointPolicy,
  mayOpen,
  policyRow,
  policyRows,
  policyRowsOf,
  selectorsOf,
  UNKNOWN_ENDPOINT_POLICY,
} from '../policy/compile.ts';
import type { ParsedPolicy } from '../policy/rule.ts';
import { createSelectorCache } from '../policy/selector-cache.ts';
import type { Reconciler } from './reconciler.ts';

/** A pod of this node, as the container runtime made it. */
export interface LocalEndpoint {
  readonly endpointId: number;
  readonly addresses: readonly IpAddress[];
  readonly ifindex: number;
  readonly hostInterface: string;
  readonly mac: string;
}

/** What an endpoint is at present, for people. */
export interface EndpointState extends LocalEndpoint {
  readonly identity: NumericIdentity;
  readonly labels: Labels | undefined;
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
  /** Policies that select it. */
  readonly policies: readonly string[];
  /** Its row is as a previous process left it, until the own cluster has said everything. */
  readonly held: boolean;
}

/** Turns endpoints, identities and policies into desired rows of the endpoint and policy tables. */
export interface PolicyState {
  setPolicy(name: string, policy: ParsedPolicy | undefined): void;
  setIdentity(identity: NumericIdentity, labels: Labels | undefined): void;
  /** `restored`: it was there before this process, so its rows stay as they are until `release`. */
  setEndpoint(endpoint: LocalEndpoint, origin: { restored: boolean }): void;
  removeEndpoint(endpointId: number): void;
  /** The identity of an address may have changed. */
  touchPrefix(prefix: IpPrefix): void;
  /**
   * The own cluster has said everything. Until then an endpoint that was restored keeps its rows, and a new one is
   * open to nobody: half of the policies could be too few.
   */
  release(): void;
  refresh(): void;
  /** Whether a row that a previous process left could still be wanted by an identity that is not known yet. */
  couldWant(row: PolicyEntry, isOutstanding: (clusterId: number) => boolean): boolean;
  endpoints(): EndpointState[];
  policies(): readonly ParsedPolicy[];
  /** Labels of an identity of any cluster; undefined: nobody has said them. */
  labelsOf(identity: number): Labels | undefined;
  readonly identityCount: number;
}

interface Member {
  readonly endpoint: LocalEndpoint;
  held: boolean;
  policy: EndpointPolicy;
  identity: NumericIdentity;
  /** Rows wanted now, by their key. */
  rows: Map<string, PolicyEntry>;
}

const INIT = reservedIdentity('init');

/** Makes an empty state over two kernel tables. */
export function createPolicyState(options: {
  readonly endpoints: Reconciler<EndpointEntry, Pick<EndpointEntry, 'endpointId' | 'addresses'>>;
  readonly policy: Reconciler<PolicyEntry, Omit<PolicyEntry, 'verdict'>>;
  readonly policyKeyOf: (row: Omit<PolicyEntry, 'verdict'>) => string;
  readonly ownIdentityOf: (address: IpAddress) => NumericIdentity | undefined;
  readonly max: MaxConnectedClusters;
}): PolicyState {
  const { endpoints, policy: policyRec, policyKeyOf, ownIdentityOf } = options;
  const cache = createSelectorCache();
  const policies = new Map<string, ParsedPolicy>();
  const members = new Map<number, Member>();
  const byPrefix = new Map<IpPrefix, number>();
  const dirtyEndpoints = new Set<number>();
  const dirtyIdentities = new Set<NumericIdentity>();
  let policiesChanged = false;
  let released = false;

  const setRows = (member: Member, rows: readonly PolicyEntry[]): void => {
    const next = new Map(rows.map((row) => [policyKeyOf(row), row]));
    for (const [key, row] of member.rows) if (!next.has(key)) policyRec.table.remove(row);
    for (const row of next.values()) policyRec.table.set(row);
    member.rows = next;
  };

  const judge = (member: Member): void => {
    const { endpoint } = member;
    let identity: NumericIdentity | undefined;
    for (const address of endpoint.addresses) identity ??= ownIdentityOf(address);
    const labels = identity === undefined ? undefined : cache.labelsOf(identity);
    member.identity = identity ?? INIT;
    member.policy =
      labels === undefined || !released
        ? UNKNOWN_ENDPOINT_POLICY
        : compileEndpoint(labels, policies.values());
    setRows(member, policyRows(endpoint.endpointId, member.policy, cache.matches));
    endpoints.table.set({
      ...endpoint,
      identity: member.identity,
      ingressEnforced: member.policy.ingressEnforced,
      egressEnforced: member.policy.egressEnforced,
    });
  };

  const updateIdentity = (member: Member, identity: NumericIdentity): void => {
    const { endpointId } = member.endpoint;
    const { open, closed } = policyRowsOf(identity, member.policy, cache.matches);
    for (const port of open) {
      const row = policyRow(endpointId, identity, port);
      member.rows.set(policyKeyOf(row), row);
      policyRec.table.set(row);
    }
    for (const port of closed) {
      const row = policyRow(endpointId, identity, port);
      if (member.rows.delete(policyKeyOf(row))) policyRec.table.remove(row);
    }
  };

  return {
    setPolicy(name, policy) {
      if (policy === undefined) policies.delete(name);
      else policies.set(name, policy);
      policiesChanged = true;
    },
    setIdentity(identity, labels) {
      if (cache.setIdentity(identity, labels)) dirtyIdentities.add(identity);
      for (const [endpointId, member] of members) {
        if (member.identity === identity) dirtyEndpoints.add(endpointId);
      }
    },
    setEndpoint(endpoint, { restored }) {
      const { endpointId } = endpoint;
      const left = restored
        ? [...endpoints.table.adopted()].find((row) => row.endpointId === endpointId)
        : undefined;
      members.set(endpointId, {
        endpoint,
        held: left !== undefined && !released,
        policy:
          left === undefined
            ? UNKNOWN_ENDPOINT_POLICY
            : {
                ...UNKNOWN_ENDPOINT_POLICY,
                ingressEnforced: left.ingressEnforced,
                egressEnforced: left.egressEnforced,
              },
        identity: left?.identity ?? INIT,
        rows: members.get(endpointId)?.rows ?? new Map(),
      });
      for (const address of endpoint.addresses) byPrefix.set(wholePrefix(address), endpointId);
      dirtyEndpoints.add(endpointId);
    },
    removeEndpoint(endpointId) {
      const member = members.get(endpointId);
      if (member === undefined) return;
      members.delete(endpointId);
      dirtyEndpoints.delete(endpointId);
      const { addresses } = member.endpoint;
      for (const address of addresses) {
        const prefix = wholePrefix(address);
        if (byPrefix.get(prefix) === endpointId) byPrefix.delete(prefix);
      }
      endpoints.table.remove({ endpointId, addresses });
      setRows(member, []);
      // The number may be given again: nothing of a previous process may be left under it.
      for (const row of policyRec.table.adopted()) {
        if (row.endpointId === endpointId) policyRec.table.remove(row);
      }
    },
    touchPrefix(prefix) {
      const endpointId = byPrefix.get(prefix);
      if (endpointId !== undefined) dirtyEndpoints.add(endpointId);
    },
    release() {
      if (released) return;
      released = true;
      for (const [endpointId, member] of members) {
        member.held = false;
        dirtyEndpoints.add(endpointId);
      }
    },
    refresh() {
      if (policiesChanged) {
        policiesChanged = false;
        cache.setSelectors(selectorsOf(policies.values()));
        for (const endpointId of members.keys()) dirtyEndpoints.add(endpointId);
      }
      for (const [endpointId, member] of members) {
        if (member.held) continue;
        if (dirtyEndpoints.has(endpointId)) judge(member);
        else for (const identity of dirtyIdentities) updateIdentity(member, identity);
      }
      dirtyEndpoints.clear();
      dirtyIdentities.clear();
    },
    couldWant(row, isOutstanding) {
      const member = members.get(row.endpointId);
      if (member === undefined) return false;
      if (member.held) return true;
      const clusterId = clusterIdOfIdentity(parseNumericIdentity(row.identity), options.max);
      return clusterId !== 0 && isOutstanding(clusterId) && mayOpen(member.policy, row);
    },
    endpoints: () =>
      [...members.values()].map(({ endpoint, identity, policy, held }) => ({
        ...endpoint,
        identity,
        labels: cache.labelsOf(identity),
        ingressEnforced: policy.ingressEnforced,
        egressEnforced: policy.egressEnforced,
        policies: policy.policies,
        held,
      })),
    policies: () => [...policies.values()],
    labelsOf: (identity) => cache.labelsOf(identity),
    get identityCount() {
      return cache.identityCount;
    },
  };
}

function wholePrefix(address: IpAddress): IpPrefix {
  return makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
}
