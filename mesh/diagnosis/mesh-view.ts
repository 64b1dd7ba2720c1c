/** A mesh as people look at it: its peers, each with all who read it, and its agents. Pure. */
import { type AgentReport, decodeAgentReport, type PeerSight } from '../wire/agent-report.ts';
import type { AgentRow, MeshStatus } from '../wire/mesh-status.ts';
import { WireError } from '../wire/wire-error.ts';

/** Somebody who reads a peer. */
export interface PeerReader {
  /** `apiserver`, `node worker-1`. */
  readonly from: string;
  readonly sight: PeerSight;
}

/** A peer. */
export interface MeshPeer {
  readonly name: string;
  /** As the mirror sees it, which reads it itself; without one, as the agent that has most to say against it. */
  readonly sight: PeerSight;
  readonly readers: readonly PeerReader[];
}

/** An agent. */
export interface MeshAgent {
  readonly row: AgentRow;
  /** Undefined: it has said nothing that can be read. */
  readonly report: AgentReport | undefined;
}

/** The mesh. */
export interface MeshView {
  readonly status: MeshStatus;
  readonly peers: readonly MeshPeer[];
  readonly agents: readonly MeshAgent[];
  /** The clock of who answered, milliseconds since 1970. */
  readonly now: number;
}

/** From the worst to the best. */
const STATES: readonly string[] = [
  'failed',
  'withdrawn',
  'stale',
  'connecting',
  'syncing',
  'ready',
];

/** Makes the view of a status. */
export function viewMesh(status: MeshStatus): MeshView {
  const agents = status.agents.map((row) => ({ row, report: reportOf(row) }));
  const readers = new Map<string, PeerReader[]>();
  const note = (from: string, sight: PeerSight): void => {
    if (sight.own) return;
    readers.set(sight.name, [...(readers.get(sight.name) ?? []), { from, sight }]);
  };
  for (const sight of status.peers) note('apiserver', sight);
  for (const { row, report } of agents) {
    // Who has no session may have seen the world as it was.
    if (row.session !== 'connected' && row.session !== 'elsewhere') continue;
    for (const sight of report?.clusters ?? []) note(`${row.kind} ${row.name}`, sight);
  }
  return {
    status,
    agents,
    now: status.at,
    peers: [...readers]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, all]) => ({ name, readers: all, sight: leadingSight(all) })),
  };
}

/** Whether everybody is there and ready, and every peer is. */
export function isMeshReady({ status, peers, agents }: MeshView): boolean {
  return (
    status.apiserver.ready &&
    peers.every(({ readers }) => readers.every(({ sight }) => sight.state === 'ready')) &&
    agents.every(({ row, report }) => {
      if (row.kind === 'machine' && row.session === 'never') return true;
      return (row.session === 'connected' || row.session === 'elsewhere') && report?.ready === true;
    })
  );
}

function leadingSight(readers: readonly PeerReader[]): PeerSight {
  const rank = ({ sight }: PeerReader): number => {
    const index = STATES.indexOf(sight.state);
    return index === -1 ? 0 : index;
  };
  const mirror = readers.find(({ from, sight }) => from === 'apiserver' && hasCounts(sight));
  const worst = [...readers].sort((a, b) => rank(a) - rank(b)).at(0);
  const chosen = mirror ?? worst;
  if (chosen === undefined) throw new Error('a peer is known by who reads it');
  return chosen.sight;
}

function hasCounts({ counts }: PeerSight): boolean {
  return Object.keys(counts).length > 0;
}

function reportOf({ name, report }: AgentRow): AgentReport | undefined {
  if (report === undefined) return undefined;
  try {
    return decodeAgentReport(report, `report of ${name}`);
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}
