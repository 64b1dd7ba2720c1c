/** Services by name, as far as the own cluster and its peers tell: what names are answered from. */
import type { ClusterSink } from '../../mesh/remote/cluster-sink.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { ClusterService } from '../../mesh/wire/service.ts';

/** What of a multi-cluster service's Service says its name (`clustermesh-apiserver/controllers/mcs`). */
const IMPORT_NAME_LABEL = 'multicluster.kubernetes.io/service-name';

/** A service, and what other clusters add to it. */
export interface NamedService {
  readonly local: LocalService;
  /** Of the same namespace and name; only such as are shared. */
  readonly remotes: readonly ClusterService[];
}

/** Services by name. */
export interface NameBook extends Pick<ClusterSink, 'apply' | 'synced' | 'removed'> {
  /** All Services of the own cluster are known: what is not there does not exist. */
  readonly isComplete: boolean;
  /** Rises with every change. */
  readonly serial: number;
  readonly ownName: ClusterName | undefined;
  service(namespace: string, name: string): NamedService | undefined;
  /** The service of the whole set of clusters: of the Multi-Cluster Services API, or a global Service. */
  setService(namespace: string, name: string): NamedService | undefined;
  hasNamespace(namespace: string): boolean;
}

/** Makes an empty book. */
export function createNameBook(): NameBook {
  const namespaces = new Map<string, Map<string, LocalService>>();
  /** `namespace/name` of imports to the names of the Services that stand for them. */
  const imports = new Map<string, string>();
  const remotes = new Map<string, Map<number, ClusterService>>();
  let isComplete = false;
  let serial = 1;
  let ownName: ClusterName | undefined;

  const named = (local: LocalService | undefined): NamedService | undefined => {
    if (local === undefined) return undefined;
    const others = remotes.get(`${local.namespace}/${local.name}`)?.values() ?? [];
    return { local, remotes: local.global ? [...others].filter(({ shared }) => shared) : [] };
  };
  const find = (namespace: string, name: string): LocalService | undefined =>
    namespaces.get(namespace)?.get(name);

  const setLocal = (key: string, service: LocalService | undefined): void => {
    const slash = key.indexOf('/');
    const [namespace, name] = [key.slice(0, slash), key.slice(slash + 1)];
    const before = find(namespace, name)?.labels?.[IMPORT_NAME_LABEL];
    if (before !== undefined) imports.delete(`${namespace}/${before}`);
    const services = namespaces.get(namespace) ?? new Map<string, LocalService>();
    if (service === undefined) services.delete(name);
    else services.set(name, service);
    if (services.size === 0) namespaces.delete(namespace);
    else namespaces.set(namespace, services);
    const imported = service?.labels?.[IMPORT_NAME_LABEL];
    if (imported !== undefined) imports.set(`${namespace}/${imported}`, name);
  };

  return {
    get isComplete() {
      return isComplete;
    },
    get serial() {
      return serial;
    },
    get ownName() {
      return ownName;
    },
    apply(cluster, change) {
      if (cluster.own) ownName = cluster.name;
      if (change.kind === 'local-service') setLocal(change.name, change.value);
      else if (change.kind === 'service' && !cluster.own) {
        const clusters = remotes.get(change.name) ?? new Map<number, ClusterService>();
        if (change.value === undefined) clusters.delete(cluster.id);
        else clusters.set(cluster.id, change.value);
        if (clusters.size === 0) remotes.delete(change.name);
        else remotes.set(change.name, clusters);
      } else return;
      // 32 bits, as a zone's serial has.
      serial = serial >= 0xffff_ffff ? 1 : serial + 1;
    },
    synced(cluster, kind) {
      if (!cluster.own) return;
      ownName = cluster.name;
      if (kind === 'local-services') isComplete = true;
    },
    removed(cluster) {
      for (const [name, clusters] of remotes) {
        clusters.delete(cluster.id);
        if (clusters.size === 0) remotes.delete(name);
      }
    },
    service: (namespace, name) => named(find(namespace, name)),
    setService(namespace, name) {
      const derived = imports.get(`${namespace}/${name}`);
      if (derived !== undefined) return named(find(namespace, derived));
      const service = find(namespace, name);
      return service?.global === true ? named(service) : undefined;
    },
    hasNamespace: (namespace) => namespaces.has(namespace),
  };
}

/** A sink that passes everything on and takes note of Services' names. */
export function withNameBook(sink: ClusterSink, names: NameBook): ClusterSink {
  return {
    ...sink,
    apply(cluster, change, pair) {
      names.apply(cluster, change, pair);
      sink.apply(cluster, change, pair);
    },
    synced(cluster, kind) {
      names.synced(cluster, kind);
      sink.synced(cluster, kind);
    },
    removed(cluster) {
      names.removed(cluster);
      sink.removed(cluster);
    },
  };
}
