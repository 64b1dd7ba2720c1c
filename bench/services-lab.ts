/**
 * One server, and clients in network namespaces of their own that reach it by a service's address: through our socket
 * hooks, through rules of iptables, or through a gateway.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FrontendEntry } from '../agent/datapath/desired.ts';
import { attachSockets, detachAll } from '../agent/datapath/hooks.ts';
import { loadObjects } from '../agent/datapath/object.ts';
import { openServicesTable } from '../agent/datapath/ops/services.ts';
import { OBJECT_DIR, openTestBpffs } from '../agent/datapath/testing/bpffs.ts';
import { openTestCgroup } from '../agent/datapath/testing/cgroup.ts';
import { execute, ipBatch, placed, run } from '../e2e/lab/command.ts';
import { waitFor } from '../e2e/lab/wait-for.ts';
import { type ChildHandle, startChild } from '../mesh/runtime/child-process.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { type IpAddress, ipFromBytes, ipToBytes, parseIpAddress } from '../mesh/wire/ip.ts';
import { clientOf, type Load, NETLOAD, rateOf, reportOf } from './netload.ts';

/** Address of the first service; the others follow. */
export const SERVICE_BASE = parseIpAddress('10.96.0.0');

const SERVER_PORT = 7000;
const SERVICE_PORT = 80;
const GATEWAY = 'gateway';

/** Where a client runs: its way to the server. */
export interface Route {
  readonly netns: string;
  readonly cgroup?: string;
}

/** Services in maps of their own, for the sockets of a cgroup of their own. */
export interface MeshServices extends AsyncDisposable {
  readonly route: Route;
  readonly loadedInMs: number;
}

/** A server and its clients' namespaces. */
export interface ServicesLab extends AsyncDisposable {
  openMesh(services: number): Promise<MeshServices>;
  iptables(backend: 'legacy' | 'nft'): Route;
  /** A gateway in front of the server; undefined where haproxy is not installed. */
  openGateway(): Promise<
    (AsyncDisposable & { readonly route: Route; readonly address: IpAddress }) | undefined
  >;
  rate(route: Route, load: Load): Promise<number>;
}

/** Clients by number: the last part but one of their network. */
const CLIENTS = ['mesh', 'legacy', 'nft', GATEWAY] as const;

const serverOf = (client: number): IpAddress => parseIpAddress(`10.200.${client}.1`);

/** Builds it in this process's network namespace, which the server has. */
export async function openServicesLab(signal: AbortSignal): Promise<ServicesLab> {
  // Its own process id is the same in each private run.
  const prefix = `svc${Math.random().toString(36).slice(2, 7)}`;
  const netnsOf = (name: string): string => `${prefix}-${name}`;
  let server: ChildHandle | undefined;
  const dispose = async (): Promise<void> => {
    await server?.stop();
    for (const name of CLIENTS) await execute(['ip', 'netns', 'delete', netnsOf(name)]);
  };
  try {
    for (const [client, name] of CLIENTS.entries()) {
      const netns = netnsOf(name);
      await run(['ip', 'netns', 'add', netns]);
      await ipBatch(
        [
          `link add name to${client} type veth peer name eth0 netns ${netns}`,
          `address add ${serverOf(client)}/24 dev to${client}`,
          `link set dev to${client} up`,
        ],
        { signal },
      );
      await ipBatch(
        [
          'link set dev lo up',
          `address add 10.200.${client}.2/24 dev eth0`,
          'link set dev eth0 up',
          `route add default via ${serverOf(client)}`,
        ],
        { netns, signal },
      );
    }
    server = startChild(NETLOAD, ['serve', String(SERVER_PORT)], { name: 'netload', signal });
  } catch (error) {
    await dispose();
    throw error;
  }
  const route = (name: (typeof CLIENTS)[number]): Route => ({ netns: netnsOf(name) });
  return {
    openMesh: (services) => openMesh(route('mesh'), services),
    iptables: (backend) => route(backend),
    openGateway: () => openGateway(route(GATEWAY), signal),
    async rate({ netns, cgroup }, load) {
      const timeoutMs = load.seconds * 1000 + 20_000;
      const result = await execute(clientOf(load), { netns, cgroup, signal, timeoutMs });
      return rateOf(load, reportOf(load, result));
    },
    [Symbol.asyncDispose]: dispose,
  };
}

async function openMesh({ netns }: Route, services: number): Promise<MeshServices> {
  const bpffs = await openTestBpffs('services');
  const cgroup = openTestCgroup();
  const links = join(bpffs.path, 'links');
  mkdirSync(links);
  const objects = loadObjects([join(OBJECT_DIR, 'mesh_socket.bpf.o')], {
    pinFolder: join(bpffs.path, 'maps'),
  });
  const began = systemClock.monotonic();
  openServicesTable(objects.maps).apply({ upserts: frontends(services), deletes: [] });
  const loadedInMs = systemClock.monotonic() - began;
  attachSockets(objects, cgroup.path, links);
  return {
    route: { netns, cgroup: cgroup.path },
    loadedInMs,
    async [Symbol.asyncDispose]() {
      detachAll(links);
      objects[Symbol.dispose]();
      await bpffs[Symbol.asyncDispose]();
      await cgroup[Symbol.asyncDispose]();
    },
  };
}

function frontends(services: number): FrontendEntry[] {
  const backend = {
    address: serverOf(CLIENTS.indexOf('mesh')),
    port: SERVER_PORT,
    protocol: 'TCP' as const,
    clusterId: 2,
  };
  return Array.from({ length: services }, (_, index) => ({
    address: addressAt(index),
    port: SERVICE_PORT,
    protocol: 'TCP',
    scope: 'internal',
    isExternal: false,
    backends: [backend],
    draining: [],
    affinitySeconds: 0,
    algorithm: 'random',
    service: `bench/service-${index}`,
  }));
}

function addressAt(index: number): IpAddress {
  const bytes = Buffer.from(ipToBytes(SERVICE_BASE));
  bytes.writeUInt32BE(bytes.readUInt32BE(0) + index, 0);
  return ipFromBytes(bytes);
}

/**
 * Rules as kube-proxy writes them: one in KUBE-SERVICES for each service, a chain for it, and a chain for its endpoint.
 * Replaces those of an earlier call.
 */
export async function loadIptables(
  { netns }: Route,
  options: {
    readonly backend: 'legacy' | 'nft';
    readonly services: number;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { backend, services, signal } = options;
  const server = serverOf(CLIENTS.indexOf(backend));
  const chains = [':KUBE-SERVICES - [0:0]'];
  const rules = ['-A OUTPUT -j KUBE-SERVICES'];
  for (let index = 0; index < services; index += 1) {
    chains.push(`:KUBE-SVC-${index} - [0:0]`, `:KUBE-SEP-${index} - [0:0]`);
    rules.push(
      `-A KUBE-SERVICES -d ${addressAt(index)}/32 -p tcp -m comment --comment "bench/service-${index} cluster IP" -m tcp --dport ${SERVICE_PORT} -j KUBE-SVC-${index}`,
      `-A KUBE-SVC-${index} -m comment --comment bench/service-${index} -j KUBE-SEP-${index}`,
      `-A KUBE-SEP-${index} -p tcp -m comment --comment bench/service-${index} -m tcp -j DNAT --to-destination ${server}:${SERVER_PORT}`,
    );
  }
  const input = `*nat\n${[...chains, ...rules].join('\n')}\nCOMMIT\n`;
  await run([`iptables-${backend}-restore`], { netns, input, signal, timeoutMs: 300_000 });
}

const GATEWAY_CONFIG = `
global
    maxconn 8000
    nbthread 2
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen service
    bind :${SERVICE_PORT}
    server one ${serverOf(CLIENTS.indexOf(GATEWAY))}:${SERVER_PORT}
`;

/** haproxy in a namespace of its own; its client is in one behind that, so that each byte goes through the gateway. */
async function openGateway(route: Route, signal: AbortSignal) {
  if ((await execute(['sh', '-c', 'command -v haproxy'])).code !== 0) return undefined;
  const client = `${route.netns}-client`;
  const address = parseIpAddress('10.201.0.1');
  const folder = await openTempDir('bench-gateway');
  let running: ChildHandle | undefined;
  const dispose = async (): Promise<void> => {
    await running?.stop();
    await execute(['ip', 'netns', 'delete', client]);
    await folder[Symbol.asyncDispose]();
  };
  try {
    writeFileSync(folder.file('haproxy.cfg'), GATEWAY_CONFIG);
    await run(['ip', 'netns', 'add', client]);
    await ipBatch(
      [
        `link add name back type veth peer name eth0 netns ${client}`,
        `address add ${address}/24 dev back`,
        'link set dev back up',
      ],
      { netns: route.netns, signal },
    );
    await ipBatch(
      ['link set dev lo up', 'address add 10.201.0.2/24 dev eth0', 'link set dev eth0 up'],
      { netns: client, signal },
    );
    const [program = '', ...args] = placed(['haproxy', '-db', '-f', folder.file('haproxy.cfg')], {
      netns: route.netns,
    });
    running = startChild(program, args, { name: 'haproxy', signal });
    await waitFor('the gateway to answer', async () => {
      const load = { kind: 'crr', port: SERVICE_PORT, seconds: 0.01, threads: 1 } as const;
      const argv = clientOf({ ...load, target: address });
      return !(await execute(argv, { netns: client, signal })).stdout.includes('"operations":0');
    });
    return { route: { netns: client }, address, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}
