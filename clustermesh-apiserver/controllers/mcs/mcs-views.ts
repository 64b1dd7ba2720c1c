/** Kubernetes objects that the Multi-Cluster Services API is made from, besides Services and Namespaces. */
import { RESOURCES } from '../../kubernetes/resource.ts';
import type { ControllerContext } from '../controller-part.ts';
import { type KubernetesObject, parseKubernetesObject } from '../kubernetes-object.ts';
import { createObjectView, type ObjectView } from '../object-view.ts';
import { derivedServiceName } from './derived-name.ts';
import { MCS_SERVICE_NAME_LABEL, SERVICE_NAME_LABEL } from './mcs-names.ts';
import { parseSlice, type SliceObject } from './mcs-objects.ts';
import type { McsVersion } from './mcs-schema.ts';
import { isLocalMirror } from './mirrored-slice.ts';

/** The views of one version of the API. */
export interface McsViews {
  readonly exports: ObjectView<KubernetesObject>;
  readonly imports: ObjectView<KubernetesObject>;
  /** By `mirrored`: slices we wrote, by `namespace/name` of the multi-cluster service. */
  readonly slices: ObjectView<SliceObject, 'mirrored'>;
}

/** Makes views that hold nothing yet. */
export function createMcsViews(context: ControllerContext, version: McsVersion): McsViews {
  const { api, clock, logger } = context;
  const ofVersion = (resource: typeof RESOURCES.serviceExports | typeof RESOURCES.serviceImports) =>
    createObjectView(
      api,
      { ...resource, version },
      {
        parse: parseKubernetesObject,
        clock,
        logger,
      },
    );
  return {
    exports: ofVersion(RESOURCES.serviceExports),
    imports: ofVersion(RESOURCES.serviceImports),
    slices: createObjectView<SliceObject, 'mirrored'>(api, RESOURCES.endpointSlices, {
      parse: parseSlice,
      indexes: { mirrored: (slice) => mirroredKeys(slice) },
      clock,
      logger,
    }),
  };
}

/** Keys of the multi-cluster services that a slice can be part of: that of its Service, or of what it mirrors. */
export function keysOfSlice(slice: SliceObject): readonly string[] {
  const service = slice.labels[SERVICE_NAME_LABEL];
  const own = service === undefined ? [] : [`${slice.namespace}/${service}`];
  return [...own, ...mirroredKeys(slice)];
}

/** Keys of the multi-cluster services that a Service can be: itself, or what it is derived from. */
export function keysOfService(service: KubernetesObject): readonly string[] {
  const name = service.labels[MCS_SERVICE_NAME_LABEL];
  const isDerived =
    name !== undefined && derivedServiceName(service.namespace, name) === service.name;
  return isDerived ? [`${service.namespace}/${name}`] : [service.key];
}

function mirroredKeys(slice: SliceObject): readonly string[] {
  const name = slice.labels[MCS_SERVICE_NAME_LABEL];
  return name === undefined || !isLocalMirror(slice) ? [] : [`${slice.namespace}/${name}`];
}
