/** The Services of a cluster with their backends, and those that are exported by the Multi-Cluster Services API. */
import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import type {
  EndpointSliceObject,
  PodObject,
  ServiceExportObject,
  ServiceObject,
} from '../sources/objects.ts';
import { readGlobalServiceSettings } from './annotations.ts';
import { checksOfService, type HealthCheck } from './health-check.ts';
import type { Machine } from './machine.ts';
import { type NestedMap, pathOf, setNested } from './nested-map.ts';
import type { RecordChange } from './records.ts';
import { convertService, isForeign } from './service.ts';
import { convertServiceExport } from './service-export.ts';
import { createServiceInputs } from './service-inputs.ts';

/** Services and their exports. */
export interface Services {
  takeService(service: ServiceObject, exists: boolean): void;
  takeSlice(slice: EndpointSliceObject, exists: boolean): void;
  takePod(pod: PodObject, exists: boolean): void;
  takeMachine(machine: Machine, exists: boolean): void;
  takeExport(object: ServiceExportObject, exists: boolean): void;
  /** What Services ask to be checked on a machine, each check once, by name. */
  checksOf(machine: Machine): readonly HealthCheck[];
  /** Differs after each change that `checksOf` may answer otherwise for. */
  readonly checksRevision: number;
  /** Touches everything of a namespace. */
  switchNamespace(name: string): void;
  /** Records of the Services that were touched, each made when it is asked for. */
  drain(): Iterable<RecordChange>;
  /** The same of exports. */
  drainExports(): Iterable<RecordChange>;
}

/** Options of `createServices`. */
export interface ServicesOptions {
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  /** Whether the mesh may know a namespace. */
  readonly isNamespaceGlobal: (name: string) => boolean;
  /** See ServiceOptions. */
  readonly isServingUnlessSaid: boolean;
}

/** Makes the book of Services of an empty cluster. */
export function createServices(options: ServicesOptions): Services {
  const { cluster, isNamespaceGlobal, isServingUnlessSaid } = options;
  const services: NestedMap<ServiceObject> = new Map();
  const exports: NestedMap<ServiceExportObject> = new Map();
  const inputs = createServiceInputs();
  const touched = new Set<string>();
  const touchedExports = new Set<string>();
  /** Services whose annotations are not as expected. */
  const warned = new Map<string, ServiceObject>();
  let checksRevision = 0;

  const serviceAt = (path: string): ServiceObject | undefined => {
    const [namespace = '', name = ''] = path.split('/');
    const service = services.get(namespace)?.get(name);
    return service === undefined || isForeign(service) ? undefined : service;
  };
  const convert = (path: string): RecordChange[] => {
    const service = serviceAt(path);
    const [namespace = '', name = ''] = path.split('/');
    if (service === undefined) {
      const records: RecordChange[] = [{ kind: 'service', namespace, name, value: undefined }];
      const before = warned.get(path);
      if (before !== undefined) records.push({ ...warningsOf(before), value: undefined });
      warned.delete(path);
      return records;
    }
    const input = {
      service,
      slices: inputs.slicesOf(path),
      pods: inputs.podsOf(service),
      machines: inputs.machinesOf(service),
    };
    const value = convertService(input, {
      cluster,
      isNamespaceGlobal: isNamespaceGlobal(namespace),
      isServingUnlessSaid,
    });
    const records: RecordChange[] = [{ kind: 'service', namespace, name, value }];
    const { warnings } = value;
    if (warnings.length > 0) {
      const { object } = warningsOf(service);
      warned.set(path, service);
      const all = warnings.map((warning) => ({ ...warning, object }));
      records.push({ kind: 'warnings', object, value: all });
    } else if (warned.delete(path)) records.push({ ...warningsOf(service), value: undefined });
    return records;
  };
  const convertExport = (path: string): RecordChange => {
    const [namespace = '', name = ''] = path.split('/');
    const object = exports.get(namespace)?.get(name);
    const service = serviceAt(path);
    const isWanted = object !== undefined && service !== undefined && isNamespaceGlobal(namespace);
    return {
      kind: 'service-export',
      namespace,
      name,
      value: isWanted ? convertServiceExport(object, service, cluster.name) : undefined,
    };
  };

  return {
    takeService(service, exists) {
      const { namespace, name: inner } = service;
      setNested(services, namespace, { inner, value: exists ? service : undefined });
      inputs.takeService(service, exists);
      touched.add(pathOf(service));
      checksRevision += 1;
      if (exports.get(namespace)?.has(inner) === true) touchedExports.add(pathOf(service));
    },
    takeSlice(slice, exists) {
      for (const path of inputs.takeSlice(slice, exists)) touched.add(path);
    },
    takePod(pod, exists) {
      for (const path of inputs.takePod(pod, exists)) touched.add(path);
    },
    takeMachine(machine, exists) {
      for (const path of inputs.takeMachine(machine, exists)) touched.add(path);
    },
    checksOf(machine) {
      const checks = new Map<string, HealthCheck>();
      for (const path of inputs.selecting(machine)) {
        const service = serviceAt(path);
        if (service === undefined) continue;
        const { healthCheck } = readGlobalServiceSettings(service.annotations, service);
        for (const check of checksOfService(service, healthCheck)) checks.set(check.check, check);
      }
      return [...checks.values()].sort((a, b) => (a.check < b.check ? -1 : 1));
    },
    get checksRevision() {
      return checksRevision;
    },
    takeExport(object, exists) {
      const { namespace, name: inner } = object;
      setNested(exports, namespace, { inner, value: exists ? object : undefined });
      touchedExports.add(pathOf(object));
    },
    switchNamespace(name) {
      for (const service of services.get(name)?.values() ?? []) touched.add(pathOf(service));
      for (const object of exports.get(name)?.values() ?? []) touchedExports.add(pathOf(object));
    },
    *drain() {
      for (const path of touched) {
        touched.delete(path);
        yield* convert(path);
      }
    },
    *drainExports() {
      for (const path of touchedExports) {
        touchedExports.delete(path);
        yield convertExport(path);
      }
    },
  };
}

function warningsOf({ namespace, name, uid }: ServiceObject): {
  readonly kind: 'warnings';
  readonly object: {
    readonly kind: 'Service';
    readonly namespace: string;
    readonly name: string;
    readonly uid: string;
  };
} {
  return { kind: 'warnings', object: { kind: 'Service', namespace, name, uid } };
}
