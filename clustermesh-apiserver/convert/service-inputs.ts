/**
 * Which slices and pods are the backends of which Service. Slices are looked up by the Service that they name; pods, which
 * count only for a Service without slices, by the labels that it selects, and only where there is such a Service at all.
 */
import type { EndpointSliceObject, PodObject, ServiceObject } from '../sources/objects.ts';
import { type NestedMap, pathOf, setNested } from './nested-map.ts';
import { isOwnSlice } from './service.ts';

/** Backends of Services; each method that takes an object says which Services that may change, by path. */
export interface ServiceInputs {
  takeService(service: ServiceObject, exists: boolean): void;
  takeSlice(slice: EndpointSliceObject, exists: boolean): readonly string[];
  takePod(pod: PodObject, exists: boolean): readonly string[];
  /** Own slices of a Service; the others are none of its backends. */
  slicesOf(path: string): readonly EndpointSliceObject[];
  /** Pods that a Service selects; none for one with slices, or without a selector. */
  podsOf(service: ServiceObject): readonly PodObject[];
}

/** Pods of one namespace by what they can be selected by, `key=value`. */
type PodIndex = Map<string, Set<PodObject>>;

/** Makes the book of backends of an empty cluster. */
export function createServiceInputs(): ServiceInputs {
  const services = new Map<string, ServiceObject>();
  /** Services by namespace and one pair of their selectors. */
  const selectors: NestedMap<Set<string>> = new Map();
  const slices = new Map<string, EndpointSliceObject>();
  const slicesByService: NestedMap<EndpointSliceObject> = new Map();
  const pods = new Map<string, PodObject>();
  const podsByNamespace: NestedMap<PodObject> = new Map();
  /** Only of namespaces that have been asked for: most have no Service without slices. */
  const indexes = new Map<string, PodIndex>();

  const setSelector = (service: ServiceObject, exists: boolean): void => {
    const pair = firstPair(service);
    if (pair === undefined) return;
    const known = selectors.get(service.namespace)?.get(pair) ?? new Set<string>();
    if (exists) known.add(pathOf(service));
    else known.delete(pathOf(service));
    const value = known.size === 0 ? undefined : known;
    setNested(selectors, service.namespace, { inner: pair, value });
  };
  const indexOf = (namespace: string): PodIndex => {
    const known = indexes.get(namespace);
    if (known !== undefined) return known;
    const index: PodIndex = new Map();
    for (const pod of podsByNamespace.get(namespace)?.values() ?? []) addToIndex(index, pod);
    indexes.set(namespace, index);
    return index;
  };
  const hasSlices = (path: string): boolean => slicesByService.has(path);
  /** Services without slices that select a pod. */
  const selecting = (pod: PodObject): string[] => {
    const inNamespace = selectors.get(pod.namespace);
    if (inNamespace === undefined) return [];
    const found: string[] = [];
    for (const [key, value] of Object.entries(pod.labels)) {
      for (const path of inNamespace.get(`${key}=${value}`) ?? []) {
        const service = services.get(path);
        if (service !== undefined && !hasSlices(path) && isSelected(service, pod)) found.push(path);
      }
    }
    return found;
  };

  return {
    takeService(service, exists) {
      const path = pathOf(service);
      const before = services.get(path);
      if (before !== undefined) setSelector(before, false);
      if (exists) services.set(path, service);
      else services.delete(path);
      if (exists) setSelector(service, true);
    },
    takeSlice(slice, exists) {
      const id = pathOf(slice);
      const touched = new Set<string>();
      for (const one of [slices.get(id), slice]) {
        if (one?.service === undefined) continue;
        const service = `${one.namespace}/${one.service}`;
        const value = exists && one === slice && isOwnSlice(slice) ? slice : undefined;
        setNested(slicesByService, service, { inner: id, value });
        touched.add(service);
      }
      if (exists) slices.set(id, slice);
      else slices.delete(id);
      return [...touched];
    },
    takePod(pod, exists) {
      const id = pathOf(pod);
      const before = pods.get(id);
      const index = indexes.get(pod.namespace);
      if (exists) pods.set(id, pod);
      else pods.delete(id);
      setNested(podsByNamespace, pod.namespace, { inner: id, value: exists ? pod : undefined });
      if (index !== undefined) {
        if (before !== undefined) removeFromIndex(index, before);
        if (exists) addToIndex(index, pod);
        if (index.size === 0) indexes.delete(pod.namespace);
      }
      const touched = new Set(before === undefined ? [] : selecting(before));
      for (const path of selecting(pod)) touched.add(path);
      return [...touched];
    },
    slicesOf: (path) => [...(slicesByService.get(path)?.values() ?? [])],
    podsOf(service) {
      const pairs = pairsOf(service);
      if (pairs.length === 0 || hasSlices(pathOf(service))) return [];
      const index = indexOf(service.namespace);
      let fewest: ReadonlySet<PodObject> | undefined;
      for (const pair of pairs) {
        const candidates = index.get(pair);
        if (candidates === undefined) return [];
        if (fewest === undefined || candidates.size < fewest.size) fewest = candidates;
      }
      return [...(fewest ?? [])].filter((pod) => isSelected(service, pod));
    },
  };
}

function addToIndex(index: PodIndex, pod: PodObject): void {
  for (const [key, value] of Object.entries(pod.labels)) {
    const pair = `${key}=${value}`;
    const known = index.get(pair);
    if (known === undefined) index.set(pair, new Set([pod]));
    else known.add(pod);
  }
}

function removeFromIndex(index: PodIndex, pod: PodObject): void {
  for (const [key, value] of Object.entries(pod.labels)) {
    const pair = `${key}=${value}`;
    const known = index.get(pair);
    known?.delete(pod);
    if (known?.size === 0) index.delete(pair);
  }
}

function pairsOf(service: ServiceObject): string[] {
  return Object.entries(service.selector).map(([key, value]) => `${key}=${value}`);
}

function firstPair(service: ServiceObject): string | undefined {
  return pairsOf(service)[0];
}

function isSelected(service: ServiceObject, pod: PodObject): boolean {
  const wanted = Object.entries(service.selector);
  return wanted.length > 0 && wanted.every(([key, value]) => pod.labels[key] === value);
}
