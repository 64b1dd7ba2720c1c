/** A Service that its cluster offers by the Multi-Cluster Services API (`pkg/clustermesh/mcsapi/types` in Cilium). */
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { ServiceExport } from '../../mesh/wire/service-export.ts';
import type { ServiceExportObject, ServiceObject } from '../sources/objects.ts';

/** What Cilium's readers know of; they refuse an export that has another word. */
const TRAFFIC_DISTRIBUTIONS = ['PreferClose', 'PreferSameZone', 'PreferSameNode'] as const;

/** An exported Service as Cilium publishes one; undefined for a Service that has no backends of its own to offer. */
export function convertServiceExport(
  object: ServiceExportObject,
  service: ServiceObject,
  cluster: ClusterName,
): ServiceExport | undefined {
  if (service.type === 'ExternalName') return undefined;
  const timeoutSeconds = service.sessionAffinityTimeoutSeconds;
  return {
    cluster,
    name: service.name,
    namespace: service.namespace,
    annotations: unlessEmpty(object.exportedAnnotations),
    labels: unlessEmpty(object.exportedLabels),
    legacyCopies: true,
    exportedAt: object.createdAt,
    ports: service.ports.map(({ name, protocol, appProtocol, port }) => ({
      name,
      protocol,
      appProtocol,
      port,
    })),
    type: service.headless ? 'Headless' : 'ClusterSetIP',
    sessionAffinity: service.sessionAffinity,
    sessionAffinityConfig:
      timeoutSeconds === undefined ? undefined : { clientIp: { timeoutSeconds } },
    ipFamilies: service.ipFamilies.length === 0 ? undefined : service.ipFamilies,
    internalTrafficPolicy: service.internalTrafficPolicy,
    trafficDistribution: TRAFFIC_DISTRIBUTIONS.find((word) => word === service.trafficDistribution),
  };
}

function unlessEmpty(
  record: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> | undefined {
  return Object.keys(record).length === 0 ? undefined : record;
}
