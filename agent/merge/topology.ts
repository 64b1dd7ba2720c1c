/** Topology hints, as kube-proxy reads them: near backends are preferred if every backend says for whom it is, and one is for this node. */
import type { BackendPlace } from '../../mesh/wire/backend-place.ts';
import type { Backend } from '../datapath/desired.ts';

/** Where backends run, and where this node is. */
export interface Topology {
  /** undefined where nobody says anything about a backend. */
  readonly placeOf: (backend: Backend) => BackendPlace | undefined;
  /** Whether all that is known of a backend is that a previous process used it: it is kept, whatever is near. */
  readonly isRemembered: (backend: Backend) => boolean;
  /** `zone` is empty while it is not known. */
  readonly node: { readonly nodeName: string; readonly zone: string };
}

/** Words of `trafficDistribution` by which the same zone is better than another. */
const ZONE_WISHES: readonly string[] = ['PreferClose', 'PreferSameZone', 'PreferSameNode'];
const NODE_WISH = 'PreferSameNode';

/**
 * The near ones of some backends, all of them where hints cannot be followed. A Service whose `trafficDistribution` asks for
 * it is served from the same zone, or node, also where nobody wrote hints. Backends of other clusters are judged like those
 * of this one, by the zones that their records tell; no record tells nodes.
 */
export function nearBackends(
  service: { readonly trafficDistribution: string | undefined },
  backends: readonly Backend[],
  topology: Topology,
): readonly Backend[] {
  const { node } = topology;
  const { trafficDistribution: wish = '' } = service;
  const isByNode = wish === NODE_WISH;
  const isByZone = ZONE_WISHES.includes(wish);
  const onNode = preferred(backends, topology, (place) =>
    isMeant(place.forNodes, { own: isByNode ? place.node : '', name: node.nodeName }),
  );
  if (onNode !== undefined) return onNode;
  const inZone = preferred(backends, topology, (place) =>
    isMeant(place.forZones, { own: isByZone ? place.zone : '', name: node.zone }),
  );
  return inZone ?? backends;
}

/** Whether hints name us; without hints, whether the backend's own place is ours. undefined: nothing is said. */
function isMeant(
  hints: readonly string[],
  { own, name }: { readonly own: string; readonly name: string },
): boolean | undefined {
  if (name === '') return undefined;
  if (hints.length > 0) return hints.includes(name);
  return own === '' ? undefined : own === name;
}

/** undefined: of one backend nothing is said, or none is for us. */
function preferred(
  backends: readonly Backend[],
  { placeOf, isRemembered }: Topology,
  isForUs: (place: BackendPlace) => boolean | undefined,
): readonly Backend[] | undefined {
  const found: Backend[] = [];
  let isAnyForUs = false;
  for (const backend of backends) {
    const place = placeOf(backend);
    if (place === undefined) {
      if (!isRemembered(backend)) return undefined;
      found.push(backend);
      continue;
    }
    const answer = isForUs(place);
    if (answer === undefined) return undefined;
    if (answer) found.push(backend);
    isAnyForUs ||= answer;
  }
  return isAnyForUs ? found : undefined;
}
