/** Pods that nobody told the agent of: those that were there before it, and those that were started without it. */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { ClusterPodAddress, ClusterPods } from './cluster-pods.ts';
import type { Interfaces } from './interfaces.ts';
import type { EndpointManager } from './manager.ts';
import { matchPods, podText } from './match-pods.ts';
import type { OpenedPod, OpenedPods } from './opened-pods.ts';

/** Changes come in bursts. */
const GATHER_MS = 100;
/** A look into every network namespace costs a program each: while nothing new is missing, ever more seldom. */
const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 30_000;
/** How long a pod may be without an endpoint before somebody is told: it is just being made, or removed. */
const LONELY_PATIENCE_MS = 15_000;
const FOR_EVER_MS = 2 ** 31 - 1;

/** Finds this node's pods without the container runtime's help, and notices when pods go. */
export interface Discovery {
  /** Works until `signal` aborts: whenever links change, or what the own cluster says of this node's pods. */
  run(signal: AbortSignal): Promise<void>;
  /** Pods of this node that are not in the mesh, a sentence each with why. */
  problems(): readonly string[];
}

/** Makes a discovery that has not begun. */
export function createDiscovery(options: {
  readonly endpoints: Pick<EndpointManager, 'records' | 'adopt' | 'serve' | 'release' | 'dropGone'>;
  readonly pods: ClusterPods;
  readonly opened: OpenedPods;
  readonly interfaces: Pick<Interfaces, 'containers' | 'changes'>;
  /**
   * Whether everything has been read of the own cluster. Until then pods go on by their CNI alone: an endpoint whose
   * policies are not known yet is open to nobody.
   */
  readonly isOwnRead: () => boolean;
  /**
   * Whether what is found ceases to be an endpoint when the own cluster has it no more. Default: it stays one until its interface
   * goes, which of pods is the same.
   */
  readonly releases?: boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}): Discovery {
  const { endpoints, pods, opened, interfaces, isOwnRead, clock, logger } = options;
  const bell = createBell();
  pods.onChange(() => bell.ring());
  const lonelySince = new Map<IpAddress, number>();
  let found: readonly string[] = [];
  let openedProblems: readonly string[] = [];
  /** Addresses that the last look did not find. */
  let inVain: ReadonlySet<IpAddress> = new Set();
  let retryMs = FIRST_RETRY_MS;
  let nextLookAt = 0;

  /** Addresses of this node's pods that no endpoint has. */
  const lonely = (): ClusterPodAddress[] => {
    const held = new Set(endpoints.records().flatMap(({ addresses }) => addresses));
    const missing = pods.all().filter(({ address }) => !held.has(address));
    const now = clock.monotonic();
    const addresses = new Set(missing.map(({ address }) => address));
    for (const address of lonelySince.keys()) {
      if (!addresses.has(address)) lonelySince.delete(address);
    }
    for (const address of addresses) {
      if (!lonelySince.has(address)) lonelySince.set(address, now);
    }
    return missing;
  };

  /** Takes over a pod that was started without an agent. Returns why that cannot be done, undefined when it is done. */
  const takeOpened = async ({ name, request, problem }: OpenedPod): Promise<string | undefined> => {
    if (request === undefined) return problem;
    const { args, containerId, netns } = request;
    const pod = `${args.get('K8S_POD_NAMESPACE') ?? ''}/${args.get('K8S_POD_NAME') ?? ''}`;
    const what = `pod ${pod} (container ${containerId}) was started while no agent answered and is not in the mesh`;
    if (!existsSync(netns)) {
      if (!existsSync(dirname(netns))) {
        return `${what}: the agent cannot see ${netns}; if it runs in a container, mount that folder of the host`;
      }
      // It went while no agent was there to be told.
      opened.forget(name);
      return undefined;
    }
    if (!isOwnRead()) return `${what} yet: the own cluster has not been read`;
    try {
      await endpoints.serve(request);
    } catch (error) {
      return `${what}: ${error instanceof Error ? error.message : String(error)}`;
    }
    logger.info(
      { pod, container: containerId },
      'pod that was started without the agent is in the mesh',
    );
    return undefined;
  };

  /** Looks for what is missing. Returns when to look again although nothing changed, in milliseconds from now. */
  const look = async (): Promise<number> => {
    const refused: string[] = [];
    for (const pod of opened.list()) {
      const problem = await takeOpened(pod);
      if (problem !== undefined) refused.push(problem);
    }
    openedProblems = refused;
    const again = refused.length > 0 ? LAST_RETRY_MS : FOR_EVER_MS;
    if (!isOwnRead()) return again;
    if (options.releases === true) {
      await endpoints.release(new Set(pods.all().map(({ address }) => address)));
    }
    const wanted = lonely().map(({ address }) => address);
    if (wanted.length === 0) {
      inVain = new Set();
      found = [];
      return again;
    }
    const now = clock.monotonic();
    const isNew = wanted.some((address) => !inVain.has(address));
    if (!isNew && now < nextLookAt) return Math.min(again, nextLookAt - now);
    if (isNew) retryMs = FIRST_RETRY_MS;
    const wait = retryMs;
    // Also when what follows fails: the next change of a link must not have it fail at once again.
    inVain = new Set(wanted);
    nextLookAt = now + wait;
    retryMs = Math.min(LAST_RETRY_MS, retryMs * 2);
    const known = new Set(
      endpoints.records().flatMap(({ origin, ifindex }) => (origin === 'runtime' ? [ifindex] : [])),
    );
    const containers = await interfaces.containers(known);
    const matched = matchPods(pods.all(), containers);
    const failed = await endpoints.adopt(matched.found);
    found = [...matched.problems, ...failed];
    const missing = new Set(lonely().map(({ address }) => address));
    inVain = new Set(wanted.filter((address) => missing.has(address)));
    logger.debug(
      { wanted: wanted.length, missing: missing.size, interfaces: containers.length },
      'looked for pods without an endpoint',
    );
    if (missing.size === 0) return again;
    nextLookAt = clock.monotonic() + wait;
    return Math.min(again, wait);
  };

  const followLinks = async (signal: AbortSignal): Promise<void> => {
    for await (const _ of interfaces.changes(signal)) {
      await tried('endpoints of interfaces that are gone cannot be removed', endpoints.dropGone);
      bell.ring();
    }
  };

  const tried = async <T>(what: string, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      logger.error({ err: error }, what);
      return undefined;
    }
  };

  const followPods = async (signal: AbortSignal): Promise<void> => {
    signal.addEventListener('abort', () => bell.ring(), { once: true });
    while (!signal.aborted) {
      bell.clear();
      const wait = await tried('pods without an endpoint cannot be looked for', look);
      await bell.wait(wait ?? LAST_RETRY_MS, clock);
      await clock.sleep(GATHER_MS, signal).catch(() => undefined);
    }
  };

  return {
    async run(signal) {
      await Promise.all([followLinks(signal), followPods(signal)]);
    },
    problems() {
      const now = clock.monotonic();
      const texts = lonely()
        .filter(({ address }) => now - (lonelySince.get(address) ?? now) >= LONELY_PATIENCE_MS)
        .map((pod) =>
          options.releases === true
            ? `endpoint ${podText(pod)} is said to be on this machine, and no container has its address ${pod.address}: it is not in the mesh; does the container run, with a veth of its own?`
            : `pod ${podText(pod)} is said to be on this node, and no endpoint has its address ${pod.address}: it is not in the mesh; is clustermesh-cni in the CNI configuration, and does the pod have a veth?`,
        );
      return [...openedProblems, ...found, ...texts];
    },
  };
}
