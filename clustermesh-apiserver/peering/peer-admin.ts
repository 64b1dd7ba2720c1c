/** What administrators ask about peers: export, preflight, apply, delete, list, rollback. Who calls has been found out before. */
import { z } from 'zod';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { type AdminCaller, AdminError, type AdminMethod } from '../registry/admin.ts';
import { ObjectError } from '../sources/object-error.ts';
import { formatMeshPeer, type MeshPeer, parseMeshPeerText } from './mesh-peer.ts';
import type { OwnPeer } from './own-peer.ts';
import type { PeerHistory } from './peer-history.ts';
import { findPlanFaults, type OwnCluster, type PeerFinding } from './peer-plan.ts';
import type { PeerStore } from './peer-store.ts';
import type { Peering } from './peering.ts';
import { PeeringError } from './peering-error.ts';

/** Methods of the service Admin that this module answers. */
export type PeerAdmin = Readonly<
  Record<
    'ExportPeer' | 'PreflightPeer' | 'ApplyPeer' | 'DeletePeer' | 'ListPeers' | 'RollbackPeer',
    AdminMethod
  >
>;

/** What is true only now and here: a person may know better. What else is found would make the mesh wrong, and is never ignored. */
export const IGNORABLE_FINDINGS: readonly PeerFinding['id'][] = [
  'peer-unreachable',
  'peer-nodes-unreachable',
  'peer-tls',
  'peer-clock',
  'peer-mtu',
  'own-certificate-refused',
];

/** Longer ones are no MeshPeer. */
const MOST_MANIFEST_LENGTH = 256 * 1024;

const MOST_NODE_ADDRESSES = 64;

const manifestField = z.string().max(MOST_MANIFEST_LENGTH).default('');
const manifestSchema = z.object({ manifest: manifestField });
const ignoreField = z.array(z.string()).default([]);
const applySchema = manifestSchema.extend({
  dry_run: z.boolean().default(false),
  ignore: ignoreField,
  node_addresses: z.array(z.ipv4().or(z.ipv6())).max(MOST_NODE_ADDRESSES).default([]),
});
const deleteSchema = z.object({
  name: z.string().default(''),
  dry_run: z.boolean().default(false),
});
const rollbackSchema = deleteSchema.extend({
  revision: z.coerce.number().int().nonnegative().default(0),
  ignore: ignoreField,
});

type Peer = Pick<MeshPeer, 'name' | 'spec'>;

interface LookContext {
  /** Of nodes of the peer, from who has asked it. */
  readonly nodeAddresses: readonly string[];
  readonly signal: AbortSignal;
}

interface ApplyHow {
  readonly dryRun: boolean;
  readonly ignore: readonly string[];
  readonly nodeAddresses?: LookContext['nodeAddresses'];
}

/** Makes the methods. They throw AdminError, KvError, and ZodError for a malformed request. */
export function createPeerAdmin(options: {
  readonly peering: Peering;
  readonly peerStore: PeerStore;
  readonly history: PeerHistory;
  readonly own: () => OwnCluster;
  /** This cluster for others, as a caller that came in at `to` reaches it, with addresses of nodes. */
  readonly exportOwn: (
    caller: Pick<AdminCaller, 'to' | 'signal'>,
  ) => Promise<
    OwnPeer & { readonly notes: readonly string[]; readonly nodeAddresses: readonly string[] }
  >;
  /** Looks at a peer over the network. */
  readonly probe: (peer: Peer, context: LookContext) => Promise<PeerFinding[]>;
  readonly logger: Logger;
}): PeerAdmin {
  const { peering, peerStore, history, own, logger } = options;

  const planFaults = (peer: Peer): PeerFinding[] => {
    const others = [...peering.accepted.values()].filter(({ name }) => name !== peer.name);
    return findPlanFaults(peer, { own: own(), others });
  };
  const preflight = async (peer: Peer, context: LookContext): Promise<PeerFinding[]> => {
    const faults = planFaults(peer);
    // Who cannot be taken need not be asked.
    if (isRefused(faults)) return faults;
    return [...faults, ...(await options.probe(peer, context))];
  };
  const present = async (name: ClusterName, signal: AbortSignal): Promise<MeshPeer | undefined> => {
    await said(() => peerStore.look(signal));
    return peering.listing?.peers.get(name)?.peer;
  };
  /** What a peer is here and what it is to be; undefined `outcome`: it is as it should be. */
  const compare = async (peer: Peer, signal: AbortSignal) => {
    const former = await present(peer.name, signal);
    const before = former === undefined ? '' : formatMeshPeer(former);
    const after = formatMeshPeer(peer);
    const change = { name: peer.name, before, after };
    const outcome: 'created' | 'changed' = former === undefined ? 'created' : 'changed';
    return { change, outcome: before === after ? undefined : outcome };
  };
  /** Says so when what is there is in force: who wrote it may have been killed before it was. */
  const unchanged = async <T extends object>(
    change: T,
    how: { readonly dryRun: boolean },
    signal: AbortSignal,
  ): Promise<object> => {
    if (!how.dryRun) await said(() => peering.settle(signal));
    return { ...change, outcome: 'unchanged' };
  };
  let latest: Promise<unknown> = Promise.resolve();
  /** Of several people who change peers at once each sees what the one before has done. */
  const oneByOne = <T>(work: () => Promise<T>): Promise<T> => {
    const mine = latest.then(work);
    latest = mine.catch(() => undefined);
    return mine;
  };

  const apply = async (peer: Peer, how: ApplyHow, caller: AdminCaller): Promise<object> => {
    const { signal } = caller;
    const { change, outcome } = await compare(peer, signal);
    if (outcome === undefined) return unchanged(change, how, signal);
    const { nodeAddresses = [] } = how;
    const found = await preflight(peer, { nodeAddresses, signal });
    const findings = found.map((finding) => softened(finding, how.ignore));
    if (isRefused(findings)) return { ...change, outcome: 'refused', findings };
    if (how.dryRun) return { ...change, outcome, findings };
    return oneByOne(() => write(peer, { ...how, findings }, caller));
  };
  const write = async (
    peer: Peer,
    how: { readonly ignore: readonly string[]; readonly findings: readonly PeerFinding[] },
    caller: AdminCaller,
  ): Promise<object> => {
    const { signal, by } = caller;
    const { findings } = how;
    // The look over the network has taken its time: others may have been faster.
    const { change, outcome } = await compare(peer, signal);
    if (outcome === undefined) return unchanged({ ...change, findings }, { dryRun: false }, signal);
    const faults = planFaults(peer).map((finding) => softened(finding, how.ignore));
    if (isRefused(faults)) return { ...change, outcome: 'refused', findings: faults };
    const { name, before } = change;
    // Noted first: who is killed in between has noted a change that was not made, and makes it with the next try.
    const revision = await history.note(name, { outcome, by, before }, signal);
    await said(() => peerStore.put(peer, signal));
    await said(() => peering.settle(signal));
    logger.info({ peer: name, outcome, by, from: caller.from, revision }, 'a peer was applied');
    return { ...change, outcome, findings, revision };
  };
  const remove = async (
    name: ClusterName,
    how: { readonly dryRun: boolean },
    caller: AdminCaller,
  ): Promise<object> => {
    const { signal, by } = caller;
    const former = await present(name, signal);
    const isBroken = peering.listing?.problems.some((problem) => problem.name === name) ?? false;
    if (former === undefined && !isBroken) return unchanged({ name }, how, signal);
    const before = former === undefined ? '' : formatMeshPeer(former);
    if (how.dryRun) return { name, before, outcome: 'deleted' };
    const revision = await history.note(name, { outcome: 'deleted', by, before }, signal);
    await said(() => peerStore.remove(name, signal));
    await said(() => peering.settle(signal));
    logger.info({ peer: name, by, from: caller.from, revision }, 'a peer was deleted');
    return { name, before, outcome: 'deleted', revision };
  };

  return {
    async ExportPeer(_request, caller) {
      const made = await options.exportOwn(caller);
      if (made.kind === 'unusable') throw new AdminError('not-offered', made.reason);
      const { peer, notes, nodeAddresses } = made;
      return { manifest: formatMeshPeer(peer), notes, node_addresses: nodeAddresses };
    },
    async PreflightPeer(request, { signal }) {
      const peer = parsePeer(manifestSchema.parse(request).manifest);
      return { findings: await preflight(peer, { nodeAddresses: [], signal }) };
    },
    async ApplyPeer(request, caller) {
      const parsed = applySchema.parse(request);
      const { manifest, dry_run: dryRun, ignore, node_addresses: nodeAddresses } = parsed;
      return apply(parsePeer(manifest), { dryRun, ignore, nodeAddresses }, caller);
    },
    async DeletePeer(request, caller) {
      const { name, dry_run: dryRun } = deleteSchema.parse(request);
      const peer = parseName(name);
      return oneByOne(() => remove(peer, { dryRun }, caller));
    },
    async ListPeers(_request, { signal }) {
      const peers = await Promise.all(
        peering.views.map(async (view) => ({
          name: view.name,
          cluster_id: view.peer?.spec.clusterId ?? 0,
          endpoints: view.peer?.spec.endpoints ?? [],
          manifest: view.peer === undefined ? '' : formatMeshPeer(view.peer),
          source: view.source,
          conditions: view.conditions,
          findings: view.findings,
          certificate_not_after: view.certificateNotAfter ?? 0,
          revisions: (await history.of(view.name, signal)).map(({ revision, outcome, at, by }) => ({
            revision,
            outcome,
            at,
            by,
          })),
        })),
      );
      return { peers };
    },
    async RollbackPeer(request, caller) {
      const { name: text, revision, dry_run: dryRun, ignore } = rollbackSchema.parse(request);
      const name = parseName(text);
      const revisions = await history.of(name, caller.signal);
      const found =
        revision === 0 ? revisions[0] : revisions.find((entry) => entry.revision === revision);
      if (found === undefined) {
        const known = revisions.map((entry) => entry.revision).join(', ');
        throw new AdminError(
          'unknown',
          known === ''
            ? `no change of peer ${name} was made here that could be undone`
            : `peer ${name} has no revision ${revision}: there are ${known}`,
        );
      }
      return found.before === ''
        ? oneByOne(() => remove(name, { dryRun }, caller))
        : apply(parsePeer(found.before), { dryRun, ignore }, caller);
    },
  };
}

function isRefused(findings: readonly PeerFinding[]): boolean {
  return findings.some(({ severity }) => severity === 'refusal');
}

/** A refusal that a person has chosen not to mind, as a warning. */
function softened(finding: PeerFinding, ignore: readonly string[]): PeerFinding {
  const isIgnored = ignore.includes(finding.id) && IGNORABLE_FINDINGS.includes(finding.id);
  return isIgnored ? { ...finding, severity: 'warning' } : finding;
}

/** What the store cannot do is told to who asks. */
async function said(act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (!(error instanceof PeeringError)) throw error;
    throw new AdminError('not-offered', error.message);
  }
}

function parsePeer(text: string): Peer {
  try {
    return parseMeshPeerText(text);
  } catch (error) {
    if (!(error instanceof ObjectError)) throw error;
    throw new AdminError('invalid', `cannot use the MeshPeer: ${error.message}`);
  }
}

function parseName(text: string): ClusterName {
  try {
    return parseClusterName(text);
  } catch (error) {
    throw new AdminError('invalid', error instanceof Error ? error.message : String(error));
  }
}
