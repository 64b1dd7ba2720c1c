/**
 * How slices come to hold what they should with the fewest writes: an endpoint stays in the slice where it is, what is new goes into
 * slices that are written anyway, then where there is room. Pure.
 */
import type { EndpointGroup } from './slice-endpoints.ts';
import type { AddressType, MeshSlice, SliceEndpoint, SlicePort } from './slice-object.ts';

/** A slice that is to hold these endpoints. Undefined `slice`: a new one. */
export interface SliceWrite {
  readonly slice: MeshSlice | undefined;
  readonly addressType: AddressType;
  readonly ports: readonly SlicePort[];
  readonly endpoints: readonly SliceEndpoint[];
}

/** What is to be done, in this order: nothing is taken away before what replaces it is there. */
export interface SlicePlan {
  /** Every slice that stays or comes, also those whose endpoints do not change. */
  readonly writes: readonly SliceWrite[];
  readonly removes: readonly MeshSlice[];
}

/** A slice while the plan is made. */
interface Draft {
  readonly slice: MeshSlice | undefined;
  readonly endpoints: SliceEndpoint[];
  isChanged: boolean;
}

/** Plans the slices of one Service and cluster. `maxEndpoints` a slice; 100 by default in Kubernetes. */
export function planSlices(
  groups: readonly EndpointGroup[],
  slices: readonly MeshSlice[],
  maxEndpoints: number,
): SlicePlan {
  const left = new Set([...slices].sort((a, b) => (a.object.name < b.object.name ? -1 : 1)));
  const claimed = claimSlices(groups, left);
  const writes = groups.flatMap((group) =>
    fillGroup(group, claimed.get(group) ?? [], maxEndpoints).flatMap(({ slice, endpoints }) => {
      if (endpoints.length > 0) {
        return [{ slice, addressType: group.addressType, ports: group.ports, endpoints }];
      }
      if (slice !== undefined) left.add(slice);
      return [];
    }),
  );
  return { writes, removes: [...left] };
}

/** Slices for each group: those with its ports; where it has none, those that no group has, since ports may be changed. */
function claimSlices(
  groups: readonly EndpointGroup[],
  left: Set<MeshSlice>,
): Map<EndpointGroup, MeshSlice[]> {
  const claimed = new Map<EndpointGroup, MeshSlice[]>();
  const claim = (group: EndpointGroup, isWanted: (slice: MeshSlice) => boolean): void => {
    const found = [...left].filter(
      (slice) => slice.addressType === group.addressType && isWanted(slice),
    );
    for (const slice of found) left.delete(slice);
    claimed.set(group, [...(claimed.get(group) ?? []), ...found]);
  };
  for (const group of groups) claim(group, (slice) => samePorts(slice.ports, group.ports));
  for (const group of groups) {
    if (claimed.get(group)?.length === 0) {
      claim(group, (slice) => slice.endpoints.some(({ address }) => group.endpoints.has(address)));
    }
  }
  return claimed;
}

function fillGroup(
  group: EndpointGroup,
  slices: readonly MeshSlice[],
  maxEndpoints: number,
): Draft[] {
  const missing = new Map(group.endpoints);
  const drafts = slices.map((slice): Draft => keepEndpoints(slice, missing, maxEndpoints));
  const rest = [...missing.values()];
  const room = ({ endpoints }: Draft): number => maxEndpoints - endpoints.length;
  const fill = (draft: Draft): void => {
    const more = rest.splice(0, room(draft));
    if (more.length === 0) return;
    draft.endpoints.push(...more);
    draft.isChanged = true;
  };
  // What is written anyway takes what is new; what would be empty last, so that it can go where it is not needed.
  const changed = drafts.filter(({ isChanged }) => isChanged);
  for (const draft of changed.sort((a, b) => room(a) - room(b))) fill(draft);
  while (rest.length > 0) {
    const open = drafts.filter((draft) => room(draft) >= rest.length);
    const tightest = open.sort((a, b) => room(a) - room(b))[0];
    if (tightest !== undefined) fill(tightest);
    else {
      const made: Draft = { slice: undefined, endpoints: [], isChanged: true };
      drafts.push(made);
      fill(made);
    }
  }
  return drafts;
}

/** What stays in a slice, taken out of what is missing. One that is in two slices stays in the first. */
function keepEndpoints(
  slice: MeshSlice,
  missing: Map<string, SliceEndpoint>,
  maxEndpoints: number,
): Draft {
  const endpoints: SliceEndpoint[] = [];
  let isChanged = false;
  for (const { address, hostname } of slice.endpoints) {
    const wanted = missing.get(address);
    if (wanted === undefined || endpoints.length >= maxEndpoints) {
      isChanged = true;
      continue;
    }
    missing.delete(address);
    endpoints.push(wanted);
    if (wanted.hostname !== hostname) isChanged = true;
  }
  return { slice, endpoints, isChanged };
}

function samePorts(a: readonly SlicePort[], b: readonly SlicePort[]): boolean {
  const texts = (ports: readonly SlicePort[]) =>
    ports.map(({ name, protocol, port }) => `${name} ${protocol} ${port}`).sort();
  return JSON.stringify(texts(a)) === JSON.stringify(texts(b));
}
