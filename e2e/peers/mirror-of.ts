/** What a mirror must hold of a cluster, by the rules of Cilium's kvstoremesh, worked out from what the cluster published. */

const KINDS = ['nodes', 'services', 'serviceexports', 'endpointslices'];

/**
 * A cluster's own etcd turned into its mirror: keys and values, without the markers' values, which are times. A mirror that
 * knows of service exports or endpoint slices marks them whether or not the cluster has any.
 */
export function mirrorOf(
  source: ReadonlyMap<string, string>,
  cluster: string,
  knows: { readonly serviceExports: boolean; readonly endpointSlices: boolean },
): Map<string, string> {
  const unknown = [
    ...(knows.serviceExports ? [] : ['serviceexports']),
    ...(knows.endpointSlices ? [] : ['endpointslices']),
  ];
  const isUnknown = (key: string): boolean =>
    unknown.some((kind) => key.startsWith(`cilium/cache/${kind}/`));
  const mirror = new Map<string, string>();
  for (const [key, value] of source) {
    const mirrored = mirroredKey(key, cluster);
    if (mirrored === undefined || isUnknown(mirrored)) continue;
    mirror.set(mirrored, value);
  }
  const config: { id: number; capabilities: Record<string, unknown> } = JSON.parse(
    source.get(`cilium/cluster-config/${cluster}`) ?? '{}',
  );
  const capabilities: Record<string, unknown> = {
    ...config.capabilities,
    syncedCanaries: true,
    cached: true,
  };
  // It writes of the capabilities those that it has heard of.
  if (!knows.serviceExports) delete capabilities.serviceExportsEnabled;
  mirror.set(`cilium/cluster-config/${cluster}`, canonicalJson({ ...config, capabilities }));
  const kinds = ['ip', 'identities', ...KINDS];
  for (const kind of kinds) {
    if (unknown.includes(kind)) continue;
    mirror.set(`cilium/synced/${cluster}/cilium/cache/${kind}/v1`, '');
  }
  return mirror;
}

/** What a mirror's etcd holds of a cluster, in the form of `mirrorOf`. */
export function mirrorIn(local: ReadonlyMap<string, string>, cluster: string): Map<string, string> {
  const mirror = new Map<string, string>();
  for (const [key, value] of local) {
    if (key.startsWith(`cilium/synced/${cluster}/`)) mirror.set(key, '');
    else if (key === `cilium/cluster-config/${cluster}`)
      mirror.set(key, canonicalJson(JSON.parse(value)));
    else if (/^cilium\/cache\/[a-z]+\/v1\//.test(key)) mirror.set(key, value);
  }
  return mirror;
}

/** The first few differences between two such maps, for people; empty when there is none. */
export function differences(
  expected: ReadonlyMap<string, string>,
  found: ReadonlyMap<string, string>,
): string[] {
  const missing = [...expected].flatMap(([key, value]) => {
    const other = found.get(key);
    if (other === value) return [];
    return [other === undefined ? `missing ${key}` : `${key} = ${other}, expected ${value}`];
  });
  const extra = [...found.keys()].filter((key) => !expected.has(key)).map((key) => `extra ${key}`);
  return [...missing, ...extra].slice(0, 10);
}

function mirroredKey(key: string, cluster: string): string | undefined {
  const [, kind = '', rest = ''] = /^cilium\/state\/([a-z]+)\/v1\/(.+)$/.exec(key) ?? [];
  if (kind === 'ip') return `cilium/cache/ip/v1/${cluster}/${rest.replace(/^default\//, '')}`;
  if (kind === 'identities' && rest.startsWith('id/')) {
    return `cilium/cache/identities/v1/${cluster}/${rest}`;
  }
  return KINDS.includes(kind) ? `cilium/cache/${kind}/v1/${rest}` : undefined;
}

function canonicalJson({ id, capabilities }: { id: number; capabilities: object }): string {
  return JSON.stringify({ id, capabilities: Object.entries(capabilities).sort() });
}
