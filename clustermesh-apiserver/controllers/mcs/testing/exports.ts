/** Exports of services by clusters, for tests. */
import fc from 'fast-check';
import { parseClusterName } from '../../../../mesh/wire/ids.ts';
import type { ServiceExport } from '../../../../mesh/wire/service-export.ts';

const OLDEST = Date.parse('2026-01-02T03:04:05Z');

/** An export of `data/db` by a cluster with one port; `age` is how many seconds later than the oldest it was made. */
export function exportOf(
  cluster: string,
  { age = 0, ...fields }: Partial<Omit<ServiceExport, 'cluster'>> & { readonly age?: number } = {},
): ServiceExport {
  return {
    cluster: parseClusterName(cluster),
    namespace: 'data',
    name: 'db',
    annotations: undefined,
    labels: undefined,
    legacyCopies: true,
    exportedAt: OLDEST + age * 1000,
    ports: [{ name: 'pg', protocol: 'TCP', appProtocol: undefined, port: 5432 }],
    type: 'ClusterSetIP',
    sessionAffinity: 'None',
    sessionAffinityConfig: undefined,
    ipFamilies: ['IPv4'],
    internalTrafficPolicy: 'Cluster',
    trafficDistribution: undefined,
    ...fields,
  };
}

const port = fc.record({
  name: fc.constantFrom('', 'a', 'b', 'c', 'Not A Name'),
  protocol: fc.constantFrom('', 'TCP', 'UDP', 'SCTP', 'QUIC'),
  appProtocol: fc.constantFrom(undefined, 'http', 'kubernetes.io/h2c', 'not a name'),
  port: fc.integer({ min: 0, max: 5 }),
});

/** What anybody may publish: exports of up to four clusters, which disagree on everything. */
export const arbitraryExports: fc.Arbitrary<readonly ServiceExport[]> = fc
  .uniqueArray(fc.constantFrom('alpha', 'beta', 'gamma', 'delta'), { minLength: 1 })
  .chain((clusters) =>
    fc.tuple(
      ...clusters.map((cluster) =>
        fc
          .record({
            age: fc.integer({ min: 0, max: 2 }),
            ports: fc.option(fc.array(port, { maxLength: 5 })),
            type: fc.constantFrom('ClusterSetIP' as const, 'Headless' as const),
            sessionAffinity: fc.constantFrom('None' as const, 'ClientIP' as const),
            sessionAffinityConfig: fc.option(
              fc.record({
                clientIp: fc.option(
                  fc.record({
                    timeoutSeconds: fc.option(fc.integer({ min: 0 }), { nil: undefined }),
                  }),
                  { nil: undefined },
                ),
              }),
              { nil: undefined },
            ),
            ipFamilies: fc.option(
              fc.array(fc.constantFrom('IPv4', 'IPv6', 'IPv9'), { maxLength: 3 }),
              { nil: undefined },
            ),
            labels: fc.option(fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }), {
              nil: undefined,
            }),
            annotations: fc.option(fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }), {
              nil: undefined,
            }),
            internalTrafficPolicy: fc.constantFrom(undefined, 'Cluster' as const, 'Local' as const),
            trafficDistribution: fc.constantFrom(undefined, 'PreferClose' as const),
          })
          .map((fields) => exportOf(cluster, fields)),
      ),
    ),
  );
