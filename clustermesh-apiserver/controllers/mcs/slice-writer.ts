/** Writes the EndpointSlices that hold this cluster's endpoints of a multi-cluster service. */
import { RESOURCES } from '../../kubernetes/resource.ts';
import { textOf } from '../kubernetes-object.ts';
import { derivedServiceName } from './derived-name.ts';
import type { IpFamily } from './ip-families.ts';
import { LOCAL_MIRROR_MANAGER, MANAGED_BY_LABEL, SERVICE_NAME_LABEL } from './mcs-names.ts';
import { type McsService, parseWholeSlice, type WholeSlice } from './mcs-objects.ts';
import { isLocalMirror, mirroredSlices } from './mirrored-slice.ts';
import { AGAIN_SOON_MS, type ReconcileScope } from './reconcile-scope.ts';

/** Makes the mirrored slices so. Undefined: there are to be none. */
export async function writeMirroredSlices(
  mirror:
    | {
        readonly service: McsService;
        readonly derived: McsService;
        readonly families: readonly IpFamily[];
      }
    | undefined,
  scope: ReconcileScope,
): Promise<void> {
  const { context, views, namespace, name, again, signal } = scope;
  const resource = RESOURCES.endpointSlices;
  const options = { resource, isOurs: isLocalMirror, signal };
  if (mirror === undefined) {
    for (const slice of views.slices.by('mirrored', `${namespace}/${name}`)) {
      if (slice.isLeaving) continue;
      const isGone = await context.applier.remove({ ...slice, raw: {} }, options);
      if (!isGone) again(AGAIN_SOON_MS);
    }
    return;
  }
  const slices = await listSlices(`${SERVICE_NAME_LABEL}=${name}`, scope);
  const derivedName = derivedServiceName(namespace, name);
  const existing = new Map(
    (
      await listSlices(
        `${SERVICE_NAME_LABEL}=${derivedName},${MANAGED_BY_LABEL}=${LOCAL_MIRROR_MANAGER}`,
        scope,
      )
    ).map((slice) => [slice.object.name, slice.object] as const),
  );
  for (const desired of mirroredSlices({ cluster: context.cluster.name, ...mirror, slices })) {
    const observed = existing.get(desired.metadata.name);
    existing.delete(desired.metadata.name);
    // The type of its addresses cannot change: it is made anew when it is gone.
    if (observed !== undefined && textOf(observed.raw, 'addressType') !== desired.addressType) {
      await context.applier.remove(observed, options);
      again(AGAIN_SOON_MS);
      continue;
    }
    const result = await context.applier.apply(desired, { ...options, observed, force: true });
    if (result.kind === 'unchanged' || result.kind === 'written') continue;
    if (result.kind === 'foreign')
      context.logger.warn({ problem: result.message }, 'slice not written');
    else again(AGAIN_SOON_MS);
  }
  for (const slice of existing.values()) {
    if (slice.isLeaving) continue;
    if (!(await context.applier.remove(slice, options))) again(AGAIN_SOON_MS);
  }
}

/** Slices with their endpoints, which no view holds. One that cannot be read is passed over, and told of. */
async function listSlices(
  labelSelector: string,
  { context, namespace, signal }: ReconcileScope,
): Promise<readonly WholeSlice[]> {
  const slices: WholeSlice[] = [];
  const pages = context.api.list(RESOURCES.endpointSlices, { namespace, labelSelector, signal });
  for await (const { items } of pages) {
    for (const item of items) {
      try {
        slices.push(parseWholeSlice(item));
      } catch (error) {
        context.logger.warn({ namespace, err: error }, 'endpoint slice cannot be mirrored');
      }
    }
  }
  return slices;
}
