/** A cluster read from its Kubernetes API server, a stream for each kind. */
import { setMaxListeners } from 'node:events';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { createFreshLook, type FreshLook } from '../../mesh/runtime/fresh-look.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type ConversionMode, kindsOf } from '../convert/published-sets.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { type ReflectOptions, reflect } from '../kubernetes/reflector.ts';
import { type KubernetesResource, RESOURCES, resourceName } from '../kubernetes/resource.ts';
import { createKindBoard, type KindBoard } from './kind-board.ts';
import { mergeBatches } from './merge-batches.ts';
import type { ObjectEvent } from './object-event.ts';
import { type ClusterObject, type ClusterObjectKind, parseObject } from './objects.ts';

/** Options of `watchKubernetes`. */
export interface KubernetesSourceOptions {
  readonly mode: ConversionMode;
  /** Whether ServiceExports are read. Default: they are not. */
  readonly serviceExports?: boolean | undefined;
  /** Told of every kind; see `createKubernetesBoard`. */
  readonly board?: KindBoard | undefined;
  /** By which somebody asks for what there is by now, kind by kind; see `createKubernetesLooks`. */
  readonly looks?: KubernetesLooks | undefined;
  /** How long objects of a deleted CustomResourceDefinition stay after it stands again. Default 15 minutes. */
  readonly keepWithoutDefinitionMs?: number | undefined;
  /** See `ReflectOptions`. */
  readonly backoffMs?: ReflectOptions<ClusterObject>['backoffMs'];
  readonly silenceMs?: number | undefined;
  readonly limit?: number | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** How a kind is read. */
interface KindSource {
  readonly resource: KubernetesResource;
  /** It has a CustomResourceDefinition, which can go with all its objects. */
  readonly isCustom?: boolean;
  /** Further versions it may be served in, by age of the installation. */
  readonly otherVersions?: readonly string[];
  readonly fieldSelector?: string;
}

const KIND_SOURCES: Readonly<Record<ClusterObjectKind, KindSource>> = {
  Node: { resource: RESOURCES.nodes },
  // Pods that have ended hold no address, and gather by the thousand where jobs run.
  Pod: {
    resource: RESOURCES.pods,
    fieldSelector: 'status.phase!=Succeeded,status.phase!=Failed',
  },
  Namespace: { resource: RESOURCES.namespaces },
  Service: { resource: RESOURCES.services },
  EndpointSlice: { resource: RESOURCES.endpointSlices },
  NetworkPolicy: { resource: RESOURCES.networkPolicies },
  CiliumNetworkPolicy: { resource: RESOURCES.ciliumNetworkPolicies, isCustom: true },
  CiliumClusterwideNetworkPolicy: {
    resource: RESOURCES.ciliumClusterwideNetworkPolicies,
    isCustom: true,
  },
  // Cilium up to 1.17 serves it as `v2alpha1` alone.
  CiliumCIDRGroup: {
    resource: RESOURCES.ciliumCidrGroups,
    isCustom: true,
    otherVersions: ['v2alpha1'],
  },
  CiliumNode: { resource: RESOURCES.ciliumNodes, isCustom: true },
  CiliumIdentity: { resource: RESOURCES.ciliumIdentities, isCustom: true },
  CiliumEndpoint: { resource: RESOURCES.ciliumEndpoints, isCustom: true },
  CiliumEndpointSlice: {
    resource: RESOURCES.ciliumEndpointSlices,
    isCustom: true,
    otherVersions: ['v2'],
  },
  ServiceExport: {
    resource: RESOURCES.serviceExports,
    isCustom: true,
    otherVersions: ['v1beta1'],
  },
};

/** A kind as `kubectl` calls it: `serviceexports.multicluster.x-k8s.io`. */
export function resourceOfKind(kind: ClusterObjectKind): string {
  return resourceName(KIND_SOURCES[kind].resource);
}

const CILIUM_POLICIES: readonly ClusterObjectKind[] = [
  'CiliumNetworkPolicy',
  'CiliumClusterwideNetworkPolicy',
  'CiliumCIDRGroup',
];

/** Kinds without which a cluster of a mode is whole: not every cluster has their definitions. */
const OPTIONAL: Readonly<Record<ConversionMode, readonly ClusterObjectKind[]>> = {
  'any-cni': CILIUM_POLICIES,
  // Policies are for machines that may join: the cluster's own pods have Cilium's agents.
  cilium: ['CiliumEndpointSlice', ...CILIUM_POLICIES],
};

/** ClusterRole of `kubernetes/manifests/` that lets a kind be read. */
function roleOf(mode: ConversionMode, kind: ClusterObjectKind): string {
  return kind === 'ServiceExport' ? 'isthmus-service-exports' : `isthmus-source-${mode}`;
}

const DEFAULT_KEEP_MS = 900_000;
/** What of a kind waits for one signal at the same time: a request, its watch, a pause. */
const MOST_WAITING = 10;

/** Makes the board of what a mode reads. */
export function createKubernetesBoard(
  options: Pick<KubernetesSourceOptions, 'mode' | 'serviceExports'>,
): KindBoard {
  return createKindBoard(kindsRead(options), OPTIONAL[options.mode]);
}

/** Asks the kinds of a source for what there is by now. */
export interface KubernetesLooks {
  of(kind: ClusterObjectKind): FreshLook;
  /**
   * Resolves when what the API server knew at the call has been taken in, of all kinds that can be read now; of the others
   * nobody knows more. Rejects when `signal` aborts before.
   */
  ask(signal: AbortSignal): Promise<void>;
}

/** Nobody waits longer for an API server that answers no more. */
const LOOK_TIMEOUT_MS = 10_000;

/** Makes them; `board` tells which kinds can be read. */
export function createKubernetesLooks(board: KindBoard, clock: Clock): KubernetesLooks {
  const looks = new Map<ClusterObjectKind, FreshLook>();
  const of = (kind: ClusterObjectKind): FreshLook => {
    const look = looks.get(kind) ?? createFreshLook();
    looks.set(kind, look);
    return look;
  };
  return {
    of,
    async ask(signal) {
      const enough = new AbortController();
      const readable = board.kinds.filter(({ state }) => state === 'synced');
      const waiting = AbortSignal.any([signal, enough.signal]);
      const looked = Promise.all(readable.map(({ kind }) => of(kind).ask(waiting)));
      const late = clock.sleep(LOOK_TIMEOUT_MS, waiting).catch(() => undefined);
      try {
        await Promise.race([looked, late]);
      } finally {
        enough.abort();
        await looked.catch(() => undefined);
      }
      signal.throwIfAborted();
    },
  };
}

/**
 * Yields the cluster's objects and every change of them until `signal` aborts; never throws for what the API server does. A
 * kind that cannot be read is never told as synced, and what was read of it before stays: see `KindBoard`.
 */
export function watchKubernetes(
  api: KubernetesApi,
  options: KubernetesSourceOptions,
): AsyncGenerator<readonly ObjectEvent[], void> {
  const kinds = kindsRead(options);
  setMaxListeners(kinds.length * MOST_WAITING, options.signal);
  return mergeBatches(kinds.map((kind) => watchKind(api, kind, options)));
}

function kindsRead(
  options: Pick<KubernetesSourceOptions, 'mode' | 'serviceExports'>,
): readonly ClusterObjectKind[] {
  return kindsOf(options.mode, { serviceExports: options.serviceExports ?? false });
}

async function* watchKind(
  api: KubernetesApi,
  kind: ClusterObjectKind,
  options: KubernetesSourceOptions,
): AsyncGenerator<readonly ObjectEvent[], void> {
  const { mode, board, clock, logger, signal, backoffMs, silenceMs, limit } = options;
  const { resource, isCustom = false, otherVersions, fieldSelector } = KIND_SOURCES[kind];
  const stream = reflect(api, resource, {
    parse: (object) => parseObject(object, [kind]),
    clock,
    logger,
    signal,
    backoffMs,
    silenceMs,
    limit,
    fieldSelector,
    otherVersions,
    role: roleOf(mode, kind),
    freshLook: options.looks?.of(kind),
    mayBeAbsent: OPTIONAL[mode].includes(kind),
    ...(isCustom
      ? { keepWithoutDefinitionMs: options.keepWithoutDefinitionMs ?? DEFAULT_KEEP_MS }
      : {}),
    onStatus: (status) => board?.set(kind, status),
  });
  let isSynced = false;
  for await (const batch of stream) {
    const events = batch.flatMap((event): ObjectEvent[] => {
      if (event.kind !== 'synced') return [event];
      // A kind is told as complete once; after that only its changes matter.
      if (isSynced) return [];
      isSynced = true;
      return [{ kind: 'synced', kinds: [kind] }];
    });
    if (events.length > 0) yield events;
  }
}
