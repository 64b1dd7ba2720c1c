/** Addresses of this cluster, as its nodes say: no other cluster's backends can be at them. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type IpPrefix, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { RESOURCES } from '../kubernetes/resource.ts';
import { listOf, parseKubernetesObject, recordOf, textOf } from './kubernetes-object.ts';
import { createObjectView, type ObjectView } from './object-view.ts';
import type { OwnRanges } from './remote-ranges.ts';

/** Which objects say where pods live: with Cilium what a Node says of pods may not be what is used. */
export type NodeKind = 'Node' | 'CiliumNode';

/** Ranges of one node. */
export interface NodeRanges {
  readonly key: string;
  readonly pods: readonly IpPrefix[];
  readonly nodes: readonly IpPrefix[];
}

const NO_RANGES: OwnRanges = { pods: [], nodes: [], services: [] };

/** Makes a view of the nodes that keeps their ranges alone. */
export function createNodeRangesView(
  api: KubernetesApi,
  options: { readonly kind: NodeKind; readonly clock: Clock; readonly logger: Logger },
): ObjectView<NodeRanges> {
  const resource = options.kind === 'Node' ? RESOURCES.nodes : RESOURCES.ciliumNodes;
  return createObjectView(api, resource, { ...options, parse: readNodeRanges });
}

/** Tells the ranges of all nodes whenever those of one change. */
export function followOwnRanges(
  view: ObjectView<NodeRanges>,
  tell: (ranges: OwnRanges) => void,
): void {
  let told = JSON.stringify(NO_RANGES);
  const tellAll = (): void => {
    const all = [...view.values()];
    const unique = (ranges: readonly IpPrefix[]): IpPrefix[] => [...new Set(ranges)].sort();
    const ranges = {
      pods: unique(all.flatMap(({ pods }) => pods)),
      nodes: unique(all.flatMap(({ nodes }) => nodes)),
      services: [],
    };
    // Nodes report on themselves all the time; and whoever is told looks at all peers anew.
    const text = JSON.stringify(ranges);
    if (text === told) return;
    told = text;
    tell(ranges);
  };
  view.onSynced(tellAll);
  view.onChange(({ before, after }) => {
    if (view.isSynced && JSON.stringify(before) !== JSON.stringify(after)) tellAll();
  });
}

/** Ranges of a Node or CiliumNode. */
export function readNodeRanges(value: unknown): NodeRanges {
  const { key, raw } = parseKubernetesObject(value);
  const spec = recordOf(raw.spec);
  const pods = [...listOf(spec?.podCIDRs), ...listOf(recordOf(spec?.ipam)?.podCIDRs)];
  const addresses = [...listOf(recordOf(raw.status)?.addresses), ...listOf(spec?.addresses)];
  return {
    key,
    pods: pods.flatMap(rangeOf),
    nodes: addresses.flatMap((address) => {
      const fields = recordOf(address);
      // A Node has `address`, a CiliumNode `ip`; host names are no addresses.
      return rangeOf(textOf(fields, 'address') || textOf(fields, 'ip'));
    }),
  };
}

function rangeOf(text: unknown): IpPrefix[] {
  try {
    return [parseIpPrefix(text)];
  } catch (error) {
    if (error instanceof WireError) return [];
    throw error;
  }
}
