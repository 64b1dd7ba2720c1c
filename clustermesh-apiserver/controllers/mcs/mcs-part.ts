/**
 * The part of the controllers that makes the Multi-Cluster Services API: ServiceExports get their status, ServiceImports, derived
 * Services and mirrored EndpointSlices are made from what all clusters export. One reconcile is about one `namespace/name`.
 */
import { type Controller, createController } from '../controller.ts';
import type { ControllerContext, ControllerPart } from '../controller-part.ts';
import { createDefinitionInstaller } from '../definitions.ts';
import type { KubernetesObject } from '../kubernetes-object.ts';
import type { LeaderTerm } from '../leader-lease.ts';
import { problemsOfViews } from '../object-view.ts';
import { createWorkQueue } from '../work-queue.ts';
import { isNewerDefinition } from './crd-release.ts';
import { DERIVED_PREFIX, derivedServiceName } from './derived-name.ts';
import { MCS_DEFINITIONS } from './install-crds.ts';
import { createLocalFamilies } from './local-families.ts';
import { MCS_SERVICE_NAME_LABEL } from './mcs-names.ts';
import { keysOfService, keysOfSlice } from './mcs-views.ts';
import { createServedRounds, type ServedRound } from './served-round.ts';
import { reconcileService } from './service-reconciler.ts';

/** How multi-cluster services are made. */
export interface McsOptions {
  /** Whether the definitions are installed where they are missing or older (`--clustermesh-mcs-api-install-crds`). */
  readonly installCrds: boolean;
  /**
   * Whether peers' backends are written as EndpointSlices of Services with an address too, where the exports do not say. Default
   * false: of headless ones alone, as Cilium does.
   */
  readonly syncSlices?: boolean;
  /** Whether EndpointSlice sync runs at all: without it headless imports have no endpoints of peers. Default true. */
  readonly slicesAreSynced?: boolean;
  /** Reconciles at a time. Default 5. */
  readonly workers?: number;
}

/** Makes the part. */
export function createMcsPart(context: ControllerContext, options: McsOptions): ControllerPart {
  const { api, clock, remote, views: shared } = context;
  const logger = context.logger.child({ part: 'mcs' });
  const inner: ControllerContext = { ...context, logger };
  const rounds = createServedRounds(inner);
  const queue = createWorkQueue({ clock, groupOf: (key) => key.slice(0, key.indexOf('/')) });
  const localFamilies = createLocalFamilies(api, { clock });
  /** Services that wait for peers, which are named. */
  const held = new Map<string, readonly string[]>();
  let controller: Controller | undefined;

  const allKeys = function* (): Generator<string> {
    yield* remote.keys('serviceexports');
    const round = rounds.current;
    if (round === undefined) return;
    yield* round.views.exports.keys();
    yield* round.views.imports.keys();
    yield* round.views.slices.names('mirrored');
    for (const service of shared.services.values()) {
      if (MCS_SERVICE_NAME_LABEL in service.labels) yield* keysOfService(service);
    }
  };
  const addAll = (isWanted: (key: string) => boolean = () => true): void => {
    for (const key of allKeys()) if (isWanted(key)) queue.add(key);
  };
  /** Most Services and slices are of no concern here. */
  const addIfKnown = (key: string): void => {
    const round = rounds.current;
    const isKnown =
      round?.views.exports.get(key) !== undefined ||
      round?.views.imports.get(key) !== undefined ||
      remote.exports(key).size > 0;
    if (isKnown) queue.add(key);
  };
  /** Somebody else's Service may have the name that one of ours is to have. */
  const addOwnersOf = ({ namespace, name }: KubernetesObject): void => {
    for (const { namespace: where, name: service, key } of rounds.current?.views.imports.values() ??
      []) {
      if (where === namespace && derivedServiceName(where, service) === name) queue.add(key);
    }
  };
  const listen = (round: ServedRound): (() => void) => {
    const { exports, imports, slices } = round.views;
    const endings = [
      exports.onChange(({ key }) => void queue.add(key)),
      imports.onChange(({ key }) => void queue.add(key)),
      slices.onChange(({ before, after }) => {
        const keys = new Set([before, after].flatMap((slice) => (slice ? keysOfSlice(slice) : [])));
        for (const key of keys) addIfKnown(key);
      }),
      shared.services.onChange(({ before, after }) => {
        const keys = new Set(
          [before, after].flatMap((service) => (service ? keysOfService(service) : [])),
        );
        for (const key of keys) addIfKnown(key);
        const service = after ?? before;
        if (service?.name.startsWith(DERIVED_PREFIX)) addOwnersOf(service);
      }),
      rounds.onFields(() => addAll()),
      shared.namespaces.onChange(({ key: namespace }) => {
        addAll((key) => key.startsWith(`${namespace}/`));
      }),
      remote.onChange(({ kind, key }) => {
        if (kind !== 'serviceexports') return;
        if (key === undefined) addAll();
        else queue.add(key);
      }),
    ];
    return () => {
      for (const end of endings) end();
    };
  };
  const waitingFor = (): readonly string[] => {
    const round = rounds.current;
    if (round === undefined) return [rounds.reason];
    const missing = [shared.services, shared.namespaces, ...Object.values(round.views)]
      .filter((view) => !view.isSynced)
      .map(({ resource, status }) => `${resource.plural} (${status?.reason || 'being listed'})`);
    return remote.names === undefined ? [...missing, 'the directory of peers'] : missing;
  };

  const leadRound = async (round: ServedRound, over: AbortSignal): Promise<void> => {
    const signal = AbortSignal.any([over, round.over]);
    const stop = listen(round);
    try {
      while (!signal.aborted && waitingFor().length > 0) {
        await clock.sleep(WAIT_STEP_MS, signal).catch(() => undefined);
      }
      if (signal.aborted) return;
      addAll();
      controller = createController({
        name: 'mcs',
        queue,
        reconcile: (key, inTime) =>
          reconcileService(key, {
            context: inner,
            views: round.views,
            served: round.served,
            localFamilies,
            syncSlices: options.syncSlices === true,
            slicesAreSynced: options.slicesAreSynced !== false,
            onHold: (heldKey, peers) => noteHold(heldKey, peers),
            signal: inTime,
          }),
        allKeys,
        clock,
        logger,
        ...(options.workers === undefined ? {} : { workers: options.workers }),
      });
      await controller.run(signal);
    } finally {
      stop();
    }
  };
  const noteHold = (key: string, peers: readonly string[]): void => {
    if (peers.length === 0) {
      held.delete(key);
      return;
    }
    if (!held.has(key)) logger.info({ key, peers }, 'import is kept until these peers were read');
    held.set(key, peers);
  };
  const installer = createDefinitionInstaller({
    manifest: MCS_DEFINITIONS,
    isNewer: isNewerDefinition,
    applier: context.applier,
    onInstalled: () => rounds.lookAgain(),
    clock,
    logger,
  });

  return {
    name: 'mcs',
    follow: (signal) => rounds.follow(signal),
    async lead({ over }: LeaderTerm) {
      if (options.slicesAreSynced === false) {
        logger.warn(
          "headless imports have no endpoints of peers in this cluster's DNS: --clustermesh-enable-endpoint-sync is off",
        );
      }
      const installing = options.installCrds ? installer.run(over) : Promise.resolve();
      try {
        while (!over.aborted) {
          const round = rounds.current;
          if (round === undefined || round.over.aborted) {
            await clock.sleep(WAIT_STEP_MS, over).catch(() => undefined);
          } else await leadRound(round, over);
        }
      } finally {
        await installing;
      }
    },
    get status() {
      const peers = new Set([...held.values()].flat());
      const holds =
        peers.size === 0
          ? []
          : [`exports of ${[...peers].sort().join(', ')}: ${held.size} imports stay as they are`];
      return {
        waitingFor: [...waitingFor(), ...holds],
        problems: [
          ...(installer.problem === undefined ? [] : [installer.problem]),
          ...problemsOfViews(Object.values(rounds.current?.views ?? {})),
        ],
        controllers: controller === undefined ? [] : [controller.status()],
      };
    },
  };
}

const WAIT_STEP_MS = 100;
