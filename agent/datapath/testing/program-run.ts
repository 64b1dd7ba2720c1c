/** Programs and tables on one machine without a network: packets in; verdict, packet, redirect and counters out. */
import { join } from 'node:path';
import { parseNumericIdentity } from '../../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress, parseIpPrefix } from '../../../mesh/wire/ip.ts';
import { readAddress, writeAddress } from '../../../mesh/wire/maps.ts';
import { lookupElement, testRun, updateElement } from '../bpf.ts';
import { type ConfigOptions, writeConfig } from '../config.ts';
import { readCounters } from '../counters.ts';
import type { DatapathOptions, EndpointEntry, IpcacheEntry, PolicyEntry } from '../desired.ts';
import { type LoadedObjects, loadObjects } from '../object.ts';
import { openEndpointsTable } from '../ops/endpoints.ts';
import { openIpcacheTable } from '../ops/ipcache.ts';
import { openPolicyTable } from '../ops/policy.ts';
import { openServicesTable } from '../ops/services.ts';
import { openTestBpffs, TEST_OBJECTS } from './bpffs.ts';
import { frame, type PacketSpec } from './packet.ts';

/** Interface index that test runs come from: the loopback device, the only one that surely exists. */
export const TEST_IFINDEX = 1;
/** Index written to the configuration as that of the tunnel device. */
export const TUNNEL_IFINDEX = 77;
/** Largest inner packet that the configuration allows. */
export const TUNNEL_MTU = 1450;

/** Layout of `struct mesh_test` in bpf/lib/test.h. */
const TEST_STATE = {
  size: 64,
  inVni: 0,
  inRemote: 4,
  outVni: 20,
  outRemote: 24,
  kind: 40,
  ifindex: 44,
  inRouteIfindex: 56,
};

/** Interface index that every route of a test run leads to. */
export const ROUTE_IFINDEX = 55;

/** What became of a packet. */
export type Outcome =
  | { readonly kind: 'stack'; readonly reasons: string[] }
  | { readonly kind: 'drop'; readonly reasons: string[] }
  /** Out of a device: to the next hop of a route, or back to where the packet came from. */
  | { readonly kind: 'route' | 'link'; readonly ifindex: number; readonly reasons: string[] }
  | {
      readonly kind: 'peer';
      readonly ifindex: number;
      readonly reasons: string[];
      readonly mac: string;
    }
  | {
      readonly kind: 'tunnel';
      readonly ifindex: number;
      readonly vni: number;
      readonly remote: IpAddress;
      readonly reasons: string[];
    };

/** The programs over maps of their own. */
export interface ProgramRun extends AsyncDisposable {
  readonly objects: LoadedObjects;
  readonly tables: {
    readonly endpoints: ReturnType<typeof openEndpointsTable>;
    readonly ipcache: ReturnType<typeof openIpcacheTable>;
    readonly policy: ReturnType<typeof openPolicyTable>;
    readonly services: ReturnType<typeof openServicesTable>;
  };
  /** The endpoint sends; `gsoSize`: a packet that will be cut into segments with so many bytes of payload. */
  fromEndpoint(packet: PacketSpec | Buffer, gsoSize?: number): Outcome;
  /** The stack hands over; `ingressIfindex` 0: the node's own. */
  toEndpoint(packet: PacketSpec | Buffer, ingressIfindex?: number): Outcome;
  /** Another node sends; no tunnel: the packet has no metadata. */
  fromOverlay(packet: PacketSpec | Buffer, tunnel?: { vni: number; remote: string }): Outcome;
  /** The stack hands a packet to the tunnel device; `tunnel`: what another program has said of its way. */
  toOverlay(
    packet: PacketSpec | Buffer,
    options?: { ingressIfindex?: number; tunnel?: { vni: number; remote: string } },
  ): Outcome;
  /** Somebody outside sends to one of the node's devices. */
  fromHost(packet: PacketSpec | Buffer): Outcome;
  /** The node itself sends by one of its devices. */
  toHost(packet: PacketSpec | Buffer): Outcome;
  /** The last packet, as its program left it. */
  output(): Buffer;
}

/** Loads the test builds over small maps in a bpffs of its own. `config` is what differs from cluster 1 of 255. */
export async function openProgramRun(
  options: Partial<ConfigOptions> & Pick<DatapathOptions, 'conntrackTimeouts'> = {},
): Promise<ProgramRun> {
  const { conntrackTimeouts, ...config } = options;
  const bpffs = await openTestBpffs('programs');
  const objects = loadObjects(TEST_OBJECTS, {
    pinFolder: join(bpffs.path, 'maps'),
    mapSizes: { mesh_ct: 4096, mesh_nat: 4096 },
    conntrackTimeouts,
  });
  const { maps } = objects;
  let last: Buffer = Buffer.alloc(0);
  writeConfig(maps.get('mesh_config'), {
    clusterId: 1,
    maxConnectedClusters: 255,
    nodeIps: [],
    tunnelIfindex: TUNNEL_IFINDEX,
    tunnelMtu: TUNNEL_MTU,
    ...config,
  });

  function run(
    program: string,
    packet: PacketSpec | Buffer,
    options: {
      ingressIfindex?: number;
      gsoSize?: number;
      tunnel?: { vni: number; remote: string } | undefined;
    },
  ): Outcome {
    const before = counts();
    writeTestState(options.tunnel);
    const bytes = Buffer.isBuffer(packet) ? packet : frame(packet);
    const { verdict, packet: output } = testRun(objects.program(program), bytes, {
      ifindex: TEST_IFINDEX,
      ingressIfindex: options.ingressIfindex ?? 0,
      gsoSize: options.gsoSize ?? 0,
    });
    last = output;
    return describe(verdict, output, newReasons(before, counts()));
  }

  function counts(): Map<string, bigint> {
    return new Map(
      readCounters(maps.get('mesh_metrics')).map((counter) => [
        `${counter.reason} ${counter.direction}`,
        counter.packets,
      ]),
    );
  }

  function writeTestState(tunnel: { vni: number; remote: string } | undefined): void {
    const state = new DataView(new ArrayBuffer(TEST_STATE.size));
    state.setUint32(TEST_STATE.inRouteIfindex, ROUTE_IFINDEX, true);
    if (tunnel !== undefined) {
      state.setUint32(TEST_STATE.inVni, tunnel.vni, true);
      writeAddress(state, TEST_STATE.inRemote, parseIpAddress(tunnel.remote));
    }
    updateElement(maps.get('mesh_test').fd, Buffer.alloc(4), new Uint8Array(state.buffer));
  }

  function describe(verdict: number, output: Buffer, reasons: string[]): Outcome {
    if (verdict === 2) return { kind: 'drop', reasons };
    if (verdict !== 7 && verdict !== -1) throw new Error(`unexpected verdict ${verdict}`);
    const bytes = new Uint8Array(TEST_STATE.size);
    lookupElement(maps.get('mesh_test').fd, Buffer.alloc(4), bytes);
    const state = new DataView(bytes.buffer);
    const outVni = state.getUint32(TEST_STATE.outVni, true);
    if (verdict === -1) {
      if (outVni === 0) return { kind: 'stack', reasons };
      // On the tunnel device already, with the word where to.
      const remote = readAddress(state, TEST_STATE.outRemote);
      return { kind: 'tunnel', ifindex: TUNNEL_IFINDEX, vni: outVni, remote, reasons };
    }
    const ifindex = state.getUint32(TEST_STATE.ifindex, true);
    const redirect = state.getUint32(TEST_STATE.kind, true);
    if (redirect === 3) return { kind: 'route', ifindex, reasons };
    if (redirect === 1 && ifindex !== TUNNEL_IFINDEX) return { kind: 'link', ifindex, reasons };
    if (redirect === 2) {
      const mac = output.toString('hex', 0, 6).replace(/(..)(?!$)/g, '$1:');
      return { kind: 'peer', ifindex, reasons, mac };
    }
    const remote = readAddress(state, TEST_STATE.outRemote);
    return { kind: 'tunnel', ifindex, vni: outVni, remote, reasons };
  }

  return {
    objects,
    tables: {
      endpoints: openEndpointsTable(maps),
      ipcache: openIpcacheTable(maps),
      policy: openPolicyTable(maps),
      services: openServicesTable(maps),
    },
    fromEndpoint: (packet, gsoSize = 0) => run('mesh_from_endpoint', packet, { gsoSize }),
    toEndpoint: (packet, ingressIfindex = 0) => run('mesh_to_endpoint', packet, { ingressIfindex }),
    fromOverlay: (packet, tunnel) => run('mesh_from_overlay', packet, { tunnel }),
    toOverlay: (packet, options = {}) => run('mesh_to_overlay', packet, options),
    fromHost: (packet) => run('mesh_from_host', packet, { ingressIfindex: TEST_IFINDEX }),
    toHost: (packet) => run('mesh_to_host', packet, {}),
    output: () => last,
    async [Symbol.asyncDispose]() {
      objects[Symbol.dispose]();
      await bpffs[Symbol.asyncDispose]();
    },
  };
}

function newReasons(before: Map<string, bigint>, after: Map<string, bigint>): string[] {
  return [...after]
    .filter(([reason, packets]) => packets !== (before.get(reason) ?? 0n))
    .map(([reason]) => reason);
}

/** An endpoint on the test interface. */
export function testEndpoint(
  endpointId: number,
  address: string,
  fields: Partial<EndpointEntry> = {},
): EndpointEntry {
  return {
    endpointId,
    addresses: [parseIpAddress(address)],
    ifindex: TEST_IFINDEX,
    hostInterface: 'lo',
    mac: '0a:00:00:00:00:01',
    identity: parseNumericIdentity(0x10000 + 300 + endpointId),
    ingressEnforced: false,
    egressEnforced: false,
    audit: false,
    ...fields,
  };
}

/** An ipcache row from text. */
export function testPrefix(
  prefix: string,
  identity: number,
  fields: { tunnelEndpoint?: string; clusterId?: number } = {},
): IpcacheEntry {
  return {
    prefix: parseIpPrefix(prefix),
    identity: parseNumericIdentity(identity),
    tunnelEndpoint: fields.tunnelEndpoint ? parseIpAddress(fields.tunnelEndpoint) : undefined,
    clusterId: fields.clusterId ?? 0,
  };
}

/** A policy row: by default, ingress for any protocol. */
export function testPolicy(
  endpointId: number,
  identity: number,
  fields: Partial<PolicyEntry> = {},
): PolicyEntry {
  return {
    endpointId,
    direction: 'ingress',
    identity,
    protocol: 0,
    port: 0,
    portPrefixBits: 0,
    verdict: 'allow',
    ...fields,
  };
}
