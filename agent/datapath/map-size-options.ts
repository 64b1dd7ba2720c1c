/** Options of the agent about how much its tables hold. Flags are Cilium's where it has them (`pkg/option`, `pkg/loadbalancer`). */
import { integerParser } from '../../mesh/runtime/option-parsers.ts';
import { DEFAULT_NAT_PORTS } from './config.ts';
import type { MapSizes } from './object.ts';
import { DEFAULT_MAGLEV_TABLE_SIZE, type MaglevTableSize } from './ops/maglev.ts';
import { blocksOf } from './ops/maglev-map.ts';

const parseEntries = integerParser(1024, 16_777_216);

/** Ports below are given out by name. */
const FIRST_FREE_PORT = 1024;
/** With fewer, a node that is called by many clients at once finds none. */
const FEWEST_NAT_PORTS = 256;

/** A range as `61000-65535`, both ends included. */
function parsePortRange(text: string): { readonly first: number; readonly last: number } {
  const ends = /^(\d{1,5})-(\d{1,5})$/.exec(text);
  const [first, last] = [Number(ends?.[1]), Number(ends?.[2])];
  if (first >= FIRST_FREE_PORT && last <= 65_535 && last - first + 1 >= FEWEST_NAT_PORTS) {
    return { first, last };
  }
  throw new Error(
    `cannot parse ${JSON.stringify(text)}: expected FIRST-LAST, at least ${FEWEST_NAT_PORTS} ports from ${FIRST_FREE_PORT} to 65535`,
  );
}

/** Part of RUN_OPTIONS. Without a value a table has the size that `docs/datapath.md` says. */
export const MAP_SIZE_OPTIONS = {
  lbMax: {
    flag: '--bpf-lb-map-max ENTRIES',
    env: 'ISTHMUS_BPF_LB_MAP_MAX',
    parse: parseEntries,
    help: 'most entries of each table of services that has no flag of its own here: frontends with a slot for each backend, backends, what clients and sockets remember',
  },
  lbServiceMax: {
    flag: '--bpf-lb-service-map-max ENTRIES',
    env: 'ISTHMUS_BPF_LB_SERVICE_MAP_MAX',
    parse: parseEntries,
    help: 'most frontends, and a slot for each of their backends, together',
  },
  lbBackendMax: {
    flag: '--bpf-lb-service-backend-map-max ENTRIES',
    env: 'ISTHMUS_BPF_LB_SERVICE_BACKEND_MAP_MAX',
    parse: parseEntries,
    help: 'most backends; one that many frontends have counts once',
  },
  lbAffinityMax: {
    flag: '--bpf-lb-affinity-map-max ENTRIES',
    env: 'ISTHMUS_BPF_LB_AFFINITY_MAP_MAX',
    parse: parseEntries,
    help: 'most clients whose backend is remembered for sessionAffinity; of more, those go that were silent longest',
  },
  lbMaglevMax: {
    flag: '--bpf-lb-maglev-map-max SERVICES',
    env: 'ISTHMUS_BPF_LB_MAGLEV_MAP_MAX',
    parse: integerParser(1, 65_536),
    help: 'most frontends that pick by maglev, each with a whole table',
  },
  sockRevMax: {
    flag: '--bpf-sock-rev-map-max ENTRIES',
    env: 'ISTHMUS_BPF_SOCK_REV_MAP_MAX',
    parse: parseEntries,
    help: 'most sockets whose calls to services are remembered; of more, those go that were silent longest',
  },
  fragmentsMax: {
    flag: '--bpf-fragments-map-max ENTRIES',
    env: 'ISTHMUS_BPF_FRAGMENTS_MAP_MAX',
    parse: parseEntries,
    help: 'most fragmented datagrams on their way at a time',
  },
  natPorts: {
    flag: '--nat-port-range FIRST-LAST',
    env: 'ISTHMUS_NAT_PORT_RANGE',
    default: `${DEFAULT_NAT_PORTS.first}-${DEFAULT_NAT_PORTS.last}`,
    parse: parsePortRange,
    help: "ports that translated sources get, beside net.ipv4.ip_local_port_range, from which the node's own sockets have theirs",
  },
} as const;

/** Values of MAP_SIZE_OPTIONS that are sizes. */
export interface MapSizeValues {
  readonly lbMax: number | undefined;
  readonly lbServiceMax: number | undefined;
  readonly lbBackendMax: number | undefined;
  readonly lbAffinityMax: number | undefined;
  /** In frontends. */
  readonly lbMaglevMax: number | undefined;
  readonly sockRevMax: number | undefined;
  readonly fragmentsMax: number | undefined;
}

/** Sizes of the maps that are to have another one than they declare. Default for `maglevTableSize`: 16381 places. */
export function mapSizesOf(
  values: MapSizeValues,
  maglevTableSize: MaglevTableSize = DEFAULT_MAGLEV_TABLE_SIZE,
): MapSizes {
  const slots = values.lbServiceMax ?? values.lbMax;
  const { lbMaglevMax } = values;
  return {
    mesh_services: slots,
    mesh_backends: values.lbBackendMax ?? values.lbMax,
    mesh_affinity: values.lbAffinityMax ?? values.lbMax,
    // Each slot may be a member: of UDP all are, of others those that drain or whose clients are remembered.
    mesh_affinity_members: slots,
    mesh_maglev: lbMaglevMax === undefined ? undefined : lbMaglevMax * blocksOf(maglevTableSize),
    mesh_translations: values.sockRevMax,
    mesh_choices: values.sockRevMax,
    mesh_fragments: values.fragmentsMax,
  };
}
