import { OWN_KINDS } from '../../mesh/remote/cluster-sink.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { localIdentityScope } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { Datapath } from '../datapath/desired.ts';
import { createEngine, type Engine } from '../state/engine.ts';
import { createMemoryDatapath, type MemoryDatapath } from '../state/memory-datapath.ts';
import { ALPHA, BETA, CHANGEABLES, ENDPOINTS } from './policy-world.ts';

/** An engine over tables in memory, in the mesh of `policy-world.ts`. */
export interface PolicyEngine {
  readonly engine: Engine;
  readonly twin: MemoryDatapath;
  /** Gives something a state; 0: it is not there. Written with the next flush. */
  set(name: string, state: number): void;
  /** Lets time pass. */
  later(milliseconds: number): void;
  /** The own cluster, or the peer, has said everything. */
  synced(cluster: 'alpha' | 'beta'): void;
}

/** Makes one. `twin`: with what a previous one left. `around`: what the engine sees of it. Default: the own cluster has spoken. */
export function openPolicyEngine(
  options: {
    readonly twin?: MemoryDatapath;
    readonly around?: (twin: MemoryDatapath) => Datapath;
    readonly isSynced?: boolean;
    readonly hasPeer?: boolean;
    readonly policyMapMax?: number;
    readonly identityGraceMs?: number;
    /** Endpoints, by their ids, that were there before. */
    readonly restored?: readonly number[];
    readonly formerPolicies?: Parameters<typeof createEngine>[0]['formerPolicies'];
  } = {},
): PolicyEngine {
  const { twin = createMemoryDatapath(), around = (same) => same, isSynced = true } = options;
  const clock = createManualClock();
  let shift = 0;
  const engine = createEngine({
    datapath: around(twin),
    node: {
      clusterId: ALPHA.id,
      clusterName: ALPHA.name,
      nodeName: 'here',
      nodeIps: [parseIpAddress('192.0.2.1')],
    },
    max: 255,
    policyDefaultLocalCluster: true,
    policyMapMax: options.policyMapMax,
    identityGraceMs: options.identityGraceMs,
    formerPolicies: options.formerPolicies,
    clock: { ...clock, monotonic: () => clock.monotonic() + shift },
    logger: createLogger('test', { level: 'silent' }),
  });
  const { restored = [] } = options;
  engine.restoreEndpoints(
    ENDPOINTS.filter(({ endpointId }) => restored.includes(endpointId)),
    new Set(),
  );
  engine.setPeers(new Map(options.hasPeer === true ? [[BETA.name, BETA.id]] : []));
  const synced = (cluster: 'alpha' | 'beta'): void => {
    for (const kind of OWN_KINDS) engine.synced(cluster === 'alpha' ? ALPHA : BETA, kind);
  };
  if (isSynced) synced('alpha');
  return {
    engine,
    twin,
    synced,
    set(name, state) {
      const changeable = CHANGEABLES[name];
      if (changeable === undefined) throw new Error(`nothing is called ${name}`);
      engine.apply(changeable.cluster, changeable.change(state), undefined);
    },
    later(milliseconds) {
      shift += milliseconds;
    },
  };
}

/** What tables hold, with whom identities stand for instead of numbers that depend on the order in which they were given. */
export function heldPolicy(twin: MemoryDatapath): {
  readonly rows: readonly string[];
  readonly endpoints: readonly string[];
  readonly addresses: readonly string[];
} {
  const bearers = new Map<number, string[]>();
  for (const { prefix, identity } of twin.ipcache.rows()) {
    if (localIdentityScope(identity) === undefined) continue;
    bearers.set(identity, [...(bearers.get(identity) ?? []), prefix].sort());
  }
  const who = (identity: number): string | undefined =>
    localIdentityScope(identity) === undefined
      ? String(identity)
      : bearers.get(identity)?.join(' and ');
  const rows = twin.policy.rows().flatMap((row) => {
    // Rows of an identity that no address has any more stay for a while, and mean nothing.
    const name = who(row.identity);
    if (name === undefined) return [];
    const ports = `${row.protocol} ${row.port}/${row.portPrefixBits}`;
    return [`${row.endpointId} ${row.direction} ${name} ${ports} ${row.verdict}`];
  });
  return {
    rows: rows.sort(),
    endpoints: twin.endpoints
      .rows()
      .map(
        ({ endpointId, identity, ingressEnforced, egressEnforced }) =>
          `${endpointId} ${identity} ${ingressEnforced} ${egressEnforced}`,
      )
      .sort(),
    addresses: twin.ipcache
      .rows()
      .map(({ prefix, identity, clusterId }) => `${prefix} ${who(identity)} ${clusterId}`)
      .sort(),
  };
}
