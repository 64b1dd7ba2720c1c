/**
 * Keeps a second apiserver with an etcd of its own from publishing the same cluster where we give out the identities: two of
 * them would give the same labels different numbers. Where Cilium gives them out Kubernetes is the arbiter, and each replica
 * may have an etcd. The claim is a Lease, as `etcd/manifests-claim.ts` is a file in the directory of manifests.
 */
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import { createLeaderLease, type LeadershipStatus } from './controllers/leader-lease.ts';
import { DEFAULT_LEASE_TIMES, type LeaseTimes } from './controllers/lease-record.ts';
import { createLeaseStore } from './controllers/lease-store.ts';
import { EtcdError } from './etcd/etcd-error.ts';
import type { KubernetesApi } from './kubernetes/api.ts';
import { createLatch } from './publish/latch.ts';

/** Name of the Lease. */
export const CLAIM_LEASE_NAME = 'isthmus-publisher';

/** The claim to a cluster. Disposing gives it up. */
export interface KubernetesClaim extends AsyncDisposable {
  /** Resolves when the claim is ours, or nobody can tell: then it is logged. Rejects as `ended`. */
  readonly settled: Promise<void>;
  /** Resolves when it is disposed of; rejects with EtcdError `second-replica` when another one publishes. */
  readonly ended: Promise<void>;
}

const POLL_MS = 500;

/** Claims the cluster of an API server for the etcd of this process, which `replica` and `dataDir` name. */
export function claimKubernetes(
  api: KubernetesApi,
  options: {
    readonly namespace: string | undefined;
    readonly replica: string;
    readonly dataDir: string;
    readonly times?: LeaseTimes;
    readonly clock: Clock;
    readonly logger: Logger;
    readonly signal: AbortSignal;
  },
): KubernetesClaim {
  const { clock, logger, dataDir, times = DEFAULT_LEASE_TIMES } = options;
  const store = createLeaseStore(api, {
    namespace: options.namespace ?? api.namespace,
    name: CLAIM_LEASE_NAME,
  });
  // The same after a restart: who comes back to his data need not wait for himself.
  const identity = `${options.replica}:${dataDir}`;
  const lease = createLeaderLease({ store, identity, times, clock, logger });
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const settled = createLatch();
  /** Somebody else's claim runs out if he is dead; one that does not is alive. */
  const patienceMs = times.durationMs + 2 * times.retryMs;

  const watch = async (): Promise<void> => {
    const begun = clock.monotonic();
    let heldAt = begun;
    let isTold = false;
    for (;;) {
      await clock.sleep(POLL_MS, signal);
      const now = clock.monotonic();
      const { status } = lease;
      if (status.state === 'leading') heldAt = now;
      else if (now - heldAt > patienceMs) {
        if (isHeldByOther(status, identity)) throw refusal(store.place, status.leader);
        if (!isTold) {
          isTold = true;
          logger.warn(
            { lease: store.place, problem: status.problem },
            'cannot claim the cluster: a second apiserver with an etcd of its own would not be noticed',
          );
        }
        settled.open();
      }
    }
  };
  const lead = async (term: { readonly over: AbortSignal }): Promise<void> => {
    settled.open();
    await new Promise<void>((resolve) => {
      if (term.over.aborted) resolve();
      else term.over.addEventListener('abort', () => resolve(), { once: true });
    });
  };
  const ended = (async () => {
    const tasks = [lease.run(lead, signal), watch()];
    try {
      await Promise.all(tasks);
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      stopping.abort();
      await Promise.allSettled(tasks);
    }
  })();
  ended.catch(() => undefined);
  const first = Promise.race([settled.opened(NEVER), ended]);
  first.catch(() => undefined);
  return {
    settled: first,
    ended,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await ended.catch(() => undefined);
    },
  };
}

const NEVER = new AbortController().signal;

function isHeldByOther(status: LeadershipStatus, identity: string): boolean {
  return status.problem === undefined && status.leader !== '' && status.leader !== identity;
}

function refusal(place: string, holder: string): EtcdError {
  return new EtcdError(
    'second-replica',
    `cannot publish this cluster: ${holder} does with an etcd of its own (Lease ${place}), and would give the same labels other numbers; replicas share one etcd in mode any-cni: give all of them the same --etcd-endpoints, or let the other one end first (a Deployment's strategy Recreate)`,
    { retryable: false },
  );
}
