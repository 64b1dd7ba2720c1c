/**
 * Which slices, pods and machines are the backends of which Service. Slices are looked up by the Service that they name; pods,
 * which count only for a Service without slices, and machines, which count for each, by the labels that it selects, and only
 * where there is such a Service at all.
 */
import type { EndpointSliceObject, PodObject, ServiceObject } from '../sources/objects.ts';
import { createLabelIndex, isSelected, type Labelled, pairsOf } from './label-index.ts';
import type { Machine } from './machine.ts';
import { type NestedMap, pathOf, setNested } from './nested-map.ts';
import { isOwnSlice } from './service.ts';

/** Backends of Services; each method that takes an object says which Services that may change, by path. */
export interface ServiceInputs {
  takeService(service: ServiceObject, exists: boolean): void;
  takeSlice(slice: EndpointSliceObject, exists: boolean): readonly string[];
  takePod(pod: PodObject, exists: boolean): readonly string[];
  takeMachine(machine: Machine, exists: boolean): readonly string[];
  /** Own slices of a Service; the others are none of its backends. */
  slicesOf(path: string): readonly EndpointSliceObject[];
  /** Pods that a Service selects; none for one with slices, or without a selector. */
  podsOf(service: ServiceObject): readonly PodObject[];
  /** Machines that a Service selects, by name; none for one without a selector. */
  machinesOf(service: ServiceObject): readonly Machine[];
  /** Services that select what has these labels, by path. */
  selecting(object: Labelled): readonly string[];
}

/** Makes the book of backends of an empty cluster. */
export function createServiceInputs(): ServiceInputs {
  const services = new Map<string, ServiceObject>();
  /** Services by namespace and one pair of their selectors. */
  const selectors: NestedMap<Set<string>> = new Map();
  const slices = new Map<string, EndpointSliceObject>();
  const slicesByService: NestedMap<EndpointSliceObject> = new Map();
  const pods = createLabelIndex<PodObject>();
  const machines = createLabelIndex<Machine>();

  const setSelector = (service: ServiceObject, exists: boolean): void => {
    const [pair] = pairsOf(service);
    if (pair === undefined) return;
    const known = selectors.get(service.namespace)?.get(pair) ?? new Set<string>();
    if (exists) known.add(pathOf(service));
    else known.delete(pathOf(service));
    const value = known.size === 0 ? undefined : known;
    setNested(selectors, service.namespace, { inner: pair, value });
  };
  const hasSlices = (path: string): boolean => slicesByService.has(path);
  const selecting = (object: Labelled, isWanted: (path: string) => boolean): string[] => {
    const inNamespace = selectors.get(object.namespace);
    if (inNamespace === undefined) return [];
    const found: string[] = [];
    for (const [key, value] of Object.entries(object.labels)) {
      for (const path of inNamespace.get(`${key}=${value}`) ?? []) {
        const service = services.get(path);
        if (service !== undefined && isWanted(path) && isSelected(service, object)) {
          found.push(path);
        }
      }
    }
    return found;
  };
  const selectingNow = <T extends Labelled>(
    { object, before }: { readonly object: T; readonly before: T | undefined },
    isWanted: (path: string) => boolean,
  ): readonly string[] => {
    const touched = new Set(before === undefined ? [] : selecting(before, isWanted));
    for (const path of selecting(object, isWanted)) touched.add(path);
    return [...touched];
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
      const before = pods.take(pod, exists);
      return selectingNow({ object: pod, before }, (path) => !hasSlices(path));
    },
    takeMachine(machine, exists) {
      const before = machines.take(machine, exists);
      return selectingNow({ object: machine, before }, () => true);
    },
    slicesOf: (path) => [...(slicesByService.get(path)?.values() ?? [])],
    podsOf: (service) => (hasSlices(pathOf(service)) ? [] : pods.select(service)),
    machinesOf: (service) =>
      [...machines.select(service)].sort((a, b) => (a.name < b.name ? -1 : 1)),
    selecting: (object) => selecting(object, () => true),
  };
}
