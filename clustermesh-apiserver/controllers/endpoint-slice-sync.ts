/**
 * EndpointSlice sync: other clusters' backends of a global Service as EndpointSlices of this cluster, for what reads those and
 * knows nothing of a mesh: the cluster's DNS, ingresses, kube-proxy (Cilium, `pkg/clustermesh/endpointslicesync`). One reconcile is
 * about one Service and one cluster.
 */
import { readGlobalNamespace, readGlobalServiceSettings } from '../convert/annotations.ts';
import { RESOURCES } from '../kubernetes/resource.ts';
import type { ApplyResult } from './apply.ts';
import { createController, type ReconcileResult } from './controller.ts';
import type { ControllerContext, ControllerPart } from './controller-part.ts';
import { eventTargetOf } from './events.ts';
import {
  type KubernetesObject,
  listOf,
  objectKey,
  parseKubernetesObject,
  recordOf,
  textOf,
} from './kubernetes-object.ts';
import { createObjectView, type ObjectView, problemsOfViews } from './object-view.ts';
import { groupEndpoints } from './slice-endpoints.ts';
import {
  type AddressType,
  isMeshSlice,
  MANAGED_BY_LABEL,
  makeMeshSlice,
  readMeshSlice,
  SLICE_MANAGER,
  type SliceOwner,
  SOURCE_CLUSTER_LABEL,
  sliceName,
  sliceOwnerKey,
} from './slice-object.ts';
import { planSlices, type SliceWrite } from './slice-plan.ts';
import { createWorkQueue } from './work-queue.ts';

const SLICES = RESOURCES.endpointSlices;
/** What was written is not in the view yet, or somebody else writes. */
const OUTDATED: ReconcileResult = { againAfterMs: 250, backsOff: true };
/** Refused names, addresses and ports that one Event tells of. */
const MOST_TOLD = 5;

/** How slices are synced; Cilium's flags in brackets. */
export interface EndpointSliceSyncOptions {
  /** Changes of backends within this time are written together (`--clustermesh-endpoint-updates-batch-period`). Default 500. */
  readonly batchMs?: number;
  /** Endpoints a slice (`--clustermesh-endpoints-per-slice`). Default 100. */
  readonly maxEndpoints?: number;
  /** Reconciles at a time (`--clustermesh-concurrent-service-endpoint-syncs`). Default 5. */
  readonly workers?: number;
}

/** What is to be done about one Service and cluster. */
type Wanted =
  /** Nothing is known that would justify a change. */
  | { readonly kind: 'wait' }
  | { readonly kind: 'none' }
  | { readonly kind: 'slices'; readonly owner: SliceOwner };

/** Makes the part. */
export function createEndpointSliceSync(
  context: ControllerContext,
  options: EndpointSliceSyncOptions = {},
): ControllerPart {
  const { batchMs = 500, maxEndpoints = 100, workers = 5 } = options;
  const { api, applier, clock, events, remote, views } = context;
  const logger = context.logger.child({ part: 'endpoint-slice-sync' });
  const slices: ObjectView<KubernetesObject, 'owner' | 'cluster'> = createObjectView(api, SLICES, {
    parse: parseKubernetesObject,
    keep: isMeshSlice,
    labelSelector: `${MANAGED_BY_LABEL}=${SLICE_MANAGER}`,
    indexes: {
      owner: (slice) => [sliceOwnerKey(slice)],
      cluster: (slice) => [slice.labels[SOURCE_CLUSTER_LABEL] ?? ''],
    },
    clock,
    logger,
  });
  const queue = createWorkQueue({ clock, groupOf: (key) => splitKey(key).cluster });
  /** Names that objects of others have, by key: they are gone around. */
  const takenNames = new Map<string, Set<string>>();

  const wantedOf = (key: string): Wanted => {
    const { namespace, name, cluster } = splitKey(key);
    if (remote.names === undefined) return { kind: 'wait' };
    const peer = [...remote.names].find((candidate) => candidate === cluster);
    if (peer === undefined) return { kind: 'none' };
    const service = views.services.get(objectKey(namespace, name));
    if (service === undefined || !isSyncedService(service, context)) return { kind: 'none' };
    if (!remote.isSynced(peer, 'services')) return { kind: 'wait' };
    const isHeadless = textOf(recordOf(service.raw.spec), 'clusterIP') === 'None';
    return { kind: 'slices', owner: { service, cluster: peer, isHeadless } };
  };

  const write = async (
    key: string,
    { owner, part, name }: { owner: SliceOwner; part: SliceWrite; name: string },
    signal: AbortSignal,
  ): Promise<ApplyResult> => {
    const result = await applier.apply(makeMeshSlice(owner, { ...part, name }), {
      resource: SLICES,
      observed: part.slice?.object,
      isOurs: (object) => isMeshSlice(object) && sliceOwnerKey(object) === key,
      force: true,
      signal,
    });
    if (result.kind === 'foreign') {
      takenNames.set(key, (takenNames.get(key) ?? new Set()).add(name));
      tell(owner, { reason: 'EndpointSliceNameTaken', note: result.message });
    }
    return result;
  };
  const tell = (owner: SliceOwner, { reason, note }: { reason: string; note: string }): void => {
    events.record({
      about: eventTargetOf(RESOURCES.services, owner.service),
      type: 'Warning',
      reason,
      action: 'SyncEndpointSlices',
      note,
    });
  };

  const reconcile = async (
    key: string,
    signal: AbortSignal,
  ): Promise<ReconcileResult | undefined> => {
    const wanted = wantedOf(key);
    if (wanted.kind === 'wait') return undefined;
    const held = slices.by('owner', key).filter(({ isLeaving }) => !isLeaving);
    let isOutdated = false;
    if (wanted.kind === 'slices') {
      const { owner } = wanted;
      const groups = groupsOf(owner);
      const plan = planSlices(groups, held.map(readMeshSlice), maxEndpoints);
      const names = new Set([
        ...slices.by('owner', key).map(({ name }) => name),
        ...(takenNames.get(key) ?? []),
      ]);
      for (const part of plan.writes) {
        const name = part.slice?.object.name ?? freeName(owner, part.addressType, names);
        names.add(name);
        const { kind } = await write(key, { owner, part, name }, signal);
        if (kind !== 'unchanged' && kind !== 'written') isOutdated = true;
      }
      // As long as something could not be written, what it replaces stays.
      if (isOutdated) return OUTDATED;
      for (const { object } of plan.removes) {
        if (!(await remove(object, signal))) isOutdated = true;
      }
    } else {
      takenNames.delete(key);
      for (const object of held) if (!(await remove(object, signal))) isOutdated = true;
    }
    return isOutdated ? OUTDATED : undefined;
  };
  const remove = (object: KubernetesObject, signal: AbortSignal): Promise<boolean> =>
    applier.remove(object, { resource: SLICES, isOurs: isMeshSlice, signal });
  const groupsOf = (owner: SliceOwner) => {
    const serviceKey = owner.service.key;
    const service = remote.services(serviceKey).get(owner.cluster);
    if (service === undefined) return [];
    const { groups, refused } = groupEndpoints(service, familiesOf(owner.service));
    const bad = [...remote.refusedBackends(owner.cluster, serviceKey).values(), ...refused];
    if (bad.length > 0) {
      const more = bad.length > MOST_TOLD ? `, and ${bad.length - MOST_TOLD} more` : '';
      const note = `cluster ${owner.cluster}: ${bad.slice(0, MOST_TOLD).join('; ')}${more}; left out`;
      tell(owner, { reason: 'RemoteEndpointsRefused', note });
    }
    return groups;
  };

  const isSynced = (service: KubernetesObject | undefined): boolean =>
    service !== undefined && isSyncedService(service, context);
  /** Every Service that may have slices, with these clusters, and every slice that there is of them. */
  function* keysOf(clusters: Iterable<string>): Iterable<string> {
    for (const cluster of clusters) {
      for (const slice of slices.by('cluster', cluster)) yield sliceOwnerKey(slice);
    }
    for (const service of views.services.values()) {
      if (!isSynced(service)) continue;
      for (const cluster of clusters) yield `${service.key}/${cluster}`;
    }
  }
  const allClusters = (): Set<string> =>
    new Set([...(remote.names ?? []), ...slices.names('cluster')]);
  const allKeys = (): Iterable<string> => keysOf(allClusters());
  remote.onChange(({ cluster, kind, key }) => {
    if (kind !== 'services') return;
    if (key === undefined) {
      for (const each of keysOf([cluster])) queue.addAfter(each, batchMs);
      return;
    }
    // Peers have many more services than are synced here. What has slices and no Service is told of by those.
    const owner = `${key}/${cluster}`;
    if (isSynced(views.services.get(key)) || slices.by('owner', owner).length > 0) {
      queue.addAfter(owner, batchMs);
    }
  });
  views.services.onChange(({ key, before, after }) => {
    // Most changes of a Service, such as of its status, are none for slices.
    if (before !== undefined && after !== undefined && sameForSlices(before, after)) return;
    if (!isSynced(before) && !isSynced(after)) return;
    for (const cluster of allClusters()) queue.add(`${key}/${cluster}`);
  });
  views.namespaces.onChange(({ key, before, after }) => {
    if (JSON.stringify(before?.annotations) === JSON.stringify(after?.annotations)) return;
    for (const each of allKeys()) if (splitKey(each).namespace === key) queue.add(each);
  });
  slices.onChange(({ before, after }) => {
    for (const slice of [before, after]) {
      if (slice !== undefined) queue.addAfter(sliceOwnerKey(slice), batchMs);
    }
  });

  const controller = createController({
    name: 'endpoint-slice-sync',
    queue,
    reconcile,
    workers,
    allKeys,
    clock,
    logger,
  });
  const waitingFor = (): string[] => {
    const waiting: string[] = [];
    if (remote.names === undefined) waiting.push('the directory of peers was not read yet');
    for (const view of [views.services, views.namespaces, slices]) {
      if (view.isSynced) continue;
      const reason = view.status?.reason ?? '';
      waiting.push(
        `${view.resource.plural} were not read yet${reason === '' ? '' : `: ${reason}`}`,
      );
    }
    for (const name of remote.names ?? []) {
      if (!remote.isSynced(name, 'services')) {
        waiting.push(`services of cluster ${name} were not read yet, its slices stay as they are`);
      }
    }
    return waiting;
  };

  return {
    name: 'endpoint-slice-sync',
    follow: (signal) => slices.follow(signal),
    async lead({ over }) {
      try {
        await Promise.all(
          [views.services, views.namespaces, slices].map((view) => view.synced(over)),
        );
      } catch (error) {
        if (over.aborted) return;
        throw error;
      }
      await controller.run(over);
    },
    get status() {
      return {
        waitingFor: waitingFor(),
        problems: problemsOfViews([slices]),
        controllers: [controller.status()],
      };
    },
  };
}

/** Whether other clusters' backends of a Service are to be slices here. */
function isSyncedService(
  { annotations, namespace, raw, isLeaving }: KubernetesObject,
  { views, namespacesAreGlobal }: Pick<ControllerContext, 'views' | 'namespacesAreGlobal'>,
): boolean {
  const spec = recordOf(raw.spec);
  if (isLeaving || textOf(spec, 'type') === 'ExternalName') return false;
  const headless = textOf(spec, 'clusterIP') === 'None';
  const settings = readGlobalServiceSettings(annotations, { headless });
  if (!settings.global || !settings.syncEndpointSlices) return false;
  const found = views.namespaces.get(namespace)?.annotations ?? {};
  return readGlobalNamespace(found, namespacesAreGlobal).global;
}

function sameForSlices(a: KubernetesObject, b: KubernetesObject): boolean {
  const facts = ({ uid, labels, annotations, isLeaving, raw }: KubernetesObject): string => {
    const { clusterIP, ipFamilies, type } = recordOf(raw.spec) ?? {};
    return JSON.stringify([uid, labels, annotations, isLeaving, clusterIP, ipFamilies, type]);
  };
  return facts(a) === facts(b);
}

/** Families of a Service; where it does not say, all. */
function familiesOf({ raw }: KubernetesObject): AddressType[] {
  const said = listOf(recordOf(raw.spec)?.ipFamilies).filter(
    (family): family is AddressType => family === 'IPv4' || family === 'IPv6',
  );
  return said.length === 0 ? ['IPv4', 'IPv6'] : said;
}

function freeName(owner: SliceOwner, addressType: AddressType, names: ReadonlySet<string>): string {
  for (let number = 0; ; number += 1) {
    const name = sliceName(owner, addressType, number);
    if (!names.has(name)) return name;
  }
}

function splitKey(key: string): { namespace: string; name: string; cluster: string } {
  const [namespace = '', name = '', cluster = ''] = key.split('/');
  return { namespace, name, cluster };
}
