/** Where an apiserver gets its cluster from, and what comes with that. */
import { createBackoff } from '../mesh/runtime/backoff.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import { type ConversionMode, kindsOf } from './convert/published-sets.ts';
import type { KubernetesApi } from './kubernetes/api.ts';
import { openKubernetes } from './kubernetes/api.ts';
import { KubernetesError } from './kubernetes/kubernetes-error.ts';
import type { KindReport } from './sources/kind-board.ts';
import {
  createKubernetesBoard,
  createKubernetesLooks,
  type KubernetesSourceOptions,
  watchKubernetes,
} from './sources/kubernetes.ts';
import type { ObjectEvent } from './sources/object-event.ts';
import type { ClusterObjectKind } from './sources/objects.ts';

/** How an apiserver reads its API server. */
export interface KubernetesSettings {
  /** Default: the service account of our own pod. */
  readonly kubeconfig?: string | undefined;
  /** Default: the kubeconfig's current context. */
  readonly context?: string | undefined;
  readonly mode: ConversionMode | 'auto';
  /** Whether ServiceExports are published. */
  readonly serviceExports: boolean;
  /** Where Leases are. Default: the namespace of the credentials. */
  readonly leaseNamespace?: string | undefined;
  /** How patient the reading is. Default: see `KubernetesSourceOptions`. */
  readonly patience?:
    | Pick<KubernetesSourceOptions, 'backoffMs' | 'silenceMs' | 'keepWithoutDefinitionMs'>
    | undefined;
}

/** How far an API server is read. */
export type KubernetesProgress =
  /** It does not answer yet, or does not say which mode it is. */
  | { readonly kind: 'asking'; readonly server: string; readonly reason: string }
  | {
      readonly kind: 'reading';
      readonly server: string;
      readonly mode: ConversionMode;
      /** The mode was not told, but found. */
      readonly isFound: boolean;
      readonly kinds: readonly KindReport[];
      /** Kinds that cannot be followed now: what was read of them stays published, and grows old. */
      readonly stale: readonly string[];
    };

/** An API server as a source of objects. Disposing closes its connections. */
export interface KubernetesSource extends AsyncDisposable {
  readonly api: KubernetesApi;
  readonly mode: ConversionMode;
  readonly kinds: readonly ClusterObjectKind[];
  /** Begins to tell the objects. */
  open(signal: AbortSignal): AsyncIterable<readonly ObjectEvent[]>;
  /** Resolves when what the API server knew at the call has been told. */
  refresh(signal: AbortSignal): Promise<void>;
  /** What is missing before everything has been told. */
  readonly missing: readonly string[];
  readonly problems: readonly { readonly where: string; readonly message: string }[];
}

/**
 * Opens the API server, and waits for it where the mode is to be found. Throws KubernetesError `configuration` when its
 * credentials cannot be used; rejects with the signal's reason when that aborts.
 */
export async function openKubernetesSource(
  settings: KubernetesSettings,
  options: {
    readonly clock: Clock;
    readonly logger: Logger;
    readonly signal: AbortSignal;
    /** Told how far it is; the function tells what is the case when it is called. */
    readonly onProgress: (look: () => KubernetesProgress) => void;
  },
): Promise<KubernetesSource> {
  const { clock, logger, signal, onProgress } = options;
  const { serviceExports } = settings;
  const api = await openKubernetes({ ...settings, clock });
  try {
    const mode =
      settings.mode === 'auto'
        ? await findMode(api, { clock, logger, signal, onProgress })
        : settings.mode;
    const board = createKubernetesBoard({ mode, serviceExports });
    const looks = createKubernetesLooks(board, clock);
    logger.info({ server: api.server, mode }, 'this cluster is read from its API server');
    onProgress(() => ({
      kind: 'reading',
      server: api.server,
      mode,
      isFound: settings.mode === 'auto',
      kinds: board.kinds,
      stale: board.stale,
    }));
    return {
      api,
      mode,
      kinds: kindsOf(mode, { serviceExports }),
      open: (reading) =>
        watchKubernetes(api, {
          ...settings.patience,
          mode,
          serviceExports,
          board,
          looks,
          clock,
          logger,
          signal: reading,
        }),
      refresh: looks.ask,
      get missing() {
        return board.missing;
      },
      get problems() {
        return board.problems;
      },
      [Symbol.asyncDispose]: () => api[Symbol.asyncDispose](),
    };
  } catch (error) {
    await api[Symbol.asyncDispose]();
    throw error;
  }
}

const CILIUM_RESOURCES = '/apis/cilium.io/v2';

/** Asks what the API server serves until it answers: whoever has Cilium's nodes and identities is run by Cilium. */
async function findMode(
  api: KubernetesApi,
  options: Parameters<typeof openKubernetesSource>[1],
): Promise<ConversionMode> {
  const { clock, logger, signal, onProgress } = options;
  const backoff = createBackoff({ minMs: 250, maxMs: 15_000 });
  let reason = 'it has not answered yet';
  onProgress(() => ({ kind: 'asking', server: api.server, reason }));
  for (;;) {
    try {
      const { body } = await api.request({ method: 'GET', path: CILIUM_RESOURCES, signal });
      const served = namesOf(body);
      return served.includes('ciliumnodes') && served.includes('ciliumidentities')
        ? 'cilium'
        : 'any-cni';
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof KubernetesError)) throw error;
      if (error.code === 'not-found') return 'any-cni';
      if (reason !== error.message) {
        reason = error.message;
        logger.warn(
          { server: api.server, err: error },
          'cannot ask the API server which mode this cluster is, will be retried; --mode tells it',
        );
      }
      await clock.sleep(Math.max(backoff.next(), error.retryAfterMs ?? 0), signal);
    }
  }
}

/** Names of an APIResourceList. */
function namesOf(body: unknown): string[] {
  const { resources } = (body ?? {}) as { resources?: unknown };
  if (!Array.isArray(resources)) return [];
  return resources.flatMap(({ name }: { name?: unknown }) =>
    typeof name === 'string' ? [name] : [],
  );
}
