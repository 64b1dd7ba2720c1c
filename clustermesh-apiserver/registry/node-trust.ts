/**
 * Which Nodes there are, for the certificates of nodes that enrolled by a token: a node ends with its Node. What the watch tells
 * only raises a doubt; a certificate loses its worth when the API server, asked for that one Node, has said so itself. So nobody
 * loses it because the API server is out of reach, or because a list was told that is not whole.
 */
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { RefusalReason } from '../gate/caller.ts';
import type { NodeTrust } from '../gate/node-trust.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import { parseListPage } from '../kubernetes/list-page.ts';
import { RESOURCES, resourcePath } from '../kubernetes/resource.ts';
import type { ObjectEvent } from '../sources/object-event.ts';
import { nodeNameOf } from './node-facts.ts';

const LOOK_TIMEOUT_MS = 3000;
/** What the API server said of a Node that the watch does not have counts this long. Shorter than the listeners look again. */
const LOOK_COUNTS_MS = 4000;
const LOOKS_AT_ONCE = 8;
const MOST_LOOKS_KEPT = 4096;
const LONG_MS = 60_000;

/** What the API server says of one Node. */
export type NodeFinding =
  | { readonly kind: 'there'; readonly uid: string }
  | { readonly kind: 'gone' }
  /** It cannot be asked. */
  | { readonly kind: 'unknown'; readonly error: KubernetesError };

/** Asks the API server for one Node. */
export type FindNode = (name: string, signal: AbortSignal) => Promise<NodeFinding>;

/** The Nodes. */
export interface NodeTrustBook {
  readonly trust: NodeTrust;
  readonly find: FindNode;
  /** Takes what the source of the cluster's objects tells. */
  take(batch: readonly ObjectEvent[]): void;
  /** Asks the API server wherever there is a doubt, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Makes it; until all Nodes have been told every certificate counts. */
export function createNodeTrust(options: {
  readonly api: Pick<KubernetesApi, 'request'>;
  readonly clock: Clock;
  readonly logger: Logger;
}): NodeTrustBook {
  const { api, clock, logger } = options;
  const find: FindNode = (name, signal) => findNode(api, name, signal);
  /** UIDs by name, as the watch has them. */
  const nodes = new Map<string, string>();
  /** What was asked for, the latest last. */
  const looks = new Map<string, { readonly uid: string | undefined; readonly at: number }>();
  const doubted = new Set<string>();
  const bell = createBell();
  const callbacks: (() => void)[] = [];
  let isComplete = false;
  let isFailing = false;

  const tell = (): void => {
    for (const callback of callbacks) callback();
  };
  const judge: NodeTrust['judge'] = (commonName, nodeUid) => {
    const name = nodeNameOf(commonName);
    // A cluster without any Node is one that has lost its objects, and whoever restores it needs its nodes.
    if (name === undefined || !isComplete || nodes.size === 0) return undefined;
    if (isSameNode(nodes.get(name), nodeUid)) return undefined;
    const look = looks.get(name);
    if (look === undefined || clock.monotonic() - look.at > LOOK_COUNTS_MS) {
      doubted.add(name);
      bell.ring();
    }
    return look === undefined ? undefined : verdictOf(look.uid, nodeUid);
  };
  /** Whether something is known now that was not before. */
  const lookAt = async (name: string, signal: AbortSignal): Promise<boolean> => {
    const finding = await find(name, signal);
    if (finding.kind === 'unknown') {
      if (!isFailing && !signal.aborted) {
        logger.warn(
          { node: name, err: finding.error },
          'the API server cannot be asked whether a Node is there, its certificate counts meanwhile',
        );
      }
      isFailing = true;
      return false;
    }
    isFailing = false;
    const uid = finding.kind === 'there' ? finding.uid : undefined;
    const before = looks.get(name);
    looks.delete(name);
    looks.set(name, { uid, at: clock.monotonic() });
    const [oldest] = looks.keys();
    if (looks.size > MOST_LOOKS_KEPT && oldest !== undefined) looks.delete(oldest);
    if (before !== undefined && before.uid === uid) return false;
    if (uid === undefined) logger.warn({ node: name }, 'a node that enrolled has no Node any more');
    return true;
  };

  return {
    trust: { judge, onChange: (callback) => callbacks.push(callback) },
    find,
    take(batch) {
      let isNews = false;
      for (const event of batch) {
        if (event.kind === 'synced') {
          if (!event.kinds.includes('Node')) continue;
          isComplete = true;
          isNews = true;
        } else if (event.object.kind === 'Node') {
          const { name, uid } = event.object;
          const isThere = event.kind === 'upsert';
          if (isThere && nodes.get(name) === uid) continue;
          if (isThere) nodes.set(name, uid);
          else nodes.delete(name);
          // What was asked for before counts until it has been asked for again.
          const look = looks.get(name);
          if (look !== undefined) looks.set(name, { ...look, at: Number.NEGATIVE_INFINITY });
          isNews = true;
        }
      }
      if (isNews && isComplete) tell();
    },
    async run(signal) {
      signal.addEventListener('abort', bell.ring, { once: true });
      while (!signal.aborted) {
        await bell.wait(LONG_MS, clock);
        bell.clear();
        for (let names = [...doubted]; names.length > 0 && !signal.aborted; names = [...doubted]) {
          const now = names.slice(0, LOOKS_AT_ONCE);
          for (const name of now) doubted.delete(name);
          const changed = await Promise.all(
            now.map((name) =>
              lookAt(name, signal).catch((error: unknown) => {
                if (signal.aborted) return false;
                throw error;
              }),
            ),
          );
          if (changed.includes(true)) tell();
        }
      }
    },
  };
}

/** A certificate that names no Node is good for whichever has the name. */
function isSameNode(known: string | undefined, nodeUid: string | undefined): boolean {
  if (known === undefined) return false;
  return nodeUid === undefined || known === '' || known === nodeUid;
}

/** `uid` is that of the Node there is; undefined: there is none. */
function verdictOf(
  uid: string | undefined,
  nodeUid: string | undefined,
): RefusalReason | undefined {
  if (uid === undefined) return 'unknown-node';
  return isSameNode(uid, nodeUid) ? undefined : 'former-node';
}

/** One Node by a list of one, which whoever reads the cluster may do; it is answered from what etcd holds now. */
async function findNode(
  api: Pick<KubernetesApi, 'request'>,
  name: string,
  signal: AbortSignal,
): Promise<NodeFinding> {
  const path = resourcePath(RESOURCES.nodes);
  try {
    const { body } = await api.request({
      method: 'GET',
      path,
      query: { fieldSelector: `metadata.name=${name}`, limit: 1 },
      timeoutMs: LOOK_TIMEOUT_MS,
      signal,
    });
    const [item] = parseListPage(body, `GET ${path}`).items;
    if (item === undefined) return { kind: 'gone' };
    const { metadata } = item as { readonly metadata?: { readonly uid?: unknown } };
    return { kind: 'there', uid: typeof metadata?.uid === 'string' ? metadata.uid : '' };
  } catch (error) {
    if (error instanceof KubernetesError) return { kind: 'unknown', error };
    throw error;
  }
}
