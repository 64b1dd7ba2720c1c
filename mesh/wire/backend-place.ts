/** Where the backends of a Service run, as agents of the own cluster read it: many backends share a place, so each place is written once. */
import { type IpAddress, parseIpAddress } from './ip.ts';
import {
  encodeGoJson,
  type FieldPath,
  failField,
  parseField,
  readArray,
  readObject,
  readString,
} from './json.ts';

/** Where a backend runs, and who is advised to use it. */
export interface BackendPlace {
  /** Name of its node; empty where nobody says. */
  readonly node: string;
  /** Zone of its node; empty where nobody says. */
  readonly zone: string;
  /** Zones whose clients shall prefer it, Kubernetes' topology hints; empty without one. */
  readonly forZones: readonly string[];
  /** Nodes whose clients shall prefer it; empty without a hint. */
  readonly forNodes: readonly string[];
}

/** Places by the backend's address. */
export type BackendPlaces = ReadonlyMap<IpAddress, BackendPlace>;

/** Of the many Services of which nothing is told: a map for each would cost more than the rest of them. */
export const NO_PLACES: BackendPlaces = new Map();

/** Text that is equal for places that are written alike: half a surrogate pair, too, is as it will be read again. */
export function placeText({ node, zone, forZones, forNodes }: BackendPlace): string {
  return encodeGoJson([node, zone, forZones, forNodes]);
}

/** JSON of places, sorted; undefined, which is left out, for none. */
export function encodePlaces(places: BackendPlaces): readonly object[] | undefined {
  if (places.size === 0) return undefined;
  const groups = new Map<string, { readonly place: BackendPlace; readonly ips: IpAddress[] }>();
  /** The same object nearly always stands for the same place: its text is made once. */
  const texts = new Map<BackendPlace, string>();
  for (const [ip, place] of places) {
    const text = texts.get(place) ?? placeText(place);
    texts.set(place, text);
    const group = groups.get(text);
    if (group === undefined) groups.set(text, { place, ips: [ip] });
    else group.ips.push(ip);
  }
  return [...groups]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([, { place, ips }]) => ({
      node: place.node || undefined,
      zone: place.zone || undefined,
      forZones: place.forZones.length === 0 ? undefined : place.forZones,
      forNodes: place.forNodes.length === 0 ? undefined : place.forNodes,
      ips: ips.sort(),
    }));
}

/** Reads places; absent and null are none. Throws WireError naming the field. */
export function readPlaces(at: FieldPath, found: unknown): BackendPlaces {
  const list = readArray(at, found) ?? [];
  if (list.length === 0) return NO_PLACES;
  const places = new Map<IpAddress, BackendPlace>();
  for (const [index, entry] of list.entries()) {
    const inside = (field: string): FieldPath => ({
      key: at.key,
      field: `${at.field}[${index}]${field}`,
    });
    const object = readObject(inside(''), entry) ?? failField(inside(''), entry, 'an object');
    const place: BackendPlace = {
      node: readString(inside('.node'), object.node),
      zone: readString(inside('.zone'), object.zone),
      forZones: readNames(inside('.forZones'), object.forZones),
      forNodes: readNames(inside('.forNodes'), object.forNodes),
    };
    const ips = inside('.ips');
    for (const ip of readArray(ips, object.ips) ?? []) {
      places.set(parseField(ips, ip, parseIpAddress), place);
    }
  }
  return places;
}

function readNames(at: FieldPath, found: unknown): readonly string[] {
  return (readArray(at, found) ?? []).map((name) => readString(at, name));
}
