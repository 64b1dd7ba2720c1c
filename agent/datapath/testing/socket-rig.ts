/**
 * Sockets of a node and of a pod, each in a network namespace of its own, that call servers on the node through frontends.
 * Node and pod are clients in one cgroup; the servers stand outside of it.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type IpAddress, parseIpAddress } from '../../../mesh/wire/ip.ts';
import type { Backend, FrontendEntry } from '../desired.ts';
import { attachSockets } from '../hooks.ts';
import { loadObjects, type OpenMaps } from '../object.ts';
import { openServicesTable, type ServicesTable } from '../ops/services.ts';
import { OBJECT_DIR, openTestBpffs } from './bpffs.ts';
import { openSocketClient, openTestCgroup, type SocketClient } from './cgroup.ts';
import { testFrontend } from './service-maps.ts';

/** Addresses of frontends; no interface has them. */
export const RIG_FRONTENDS = {
  four: parseIpAddress('172.31.255.1'),
  six: parseIpAddress('fd00:ffff::1'),
} as const;

/** Addresses where nobody answers, not even to say so. */
export const RIG_SILENT = {
  four: parseIpAddress('10.77.0.99'),
  six: parseIpAddress('fd77::99'),
} as const;

const NODE = { four: parseIpAddress('10.77.0.1'), six: parseIpAddress('fd77::1') } as const;
const POD = { four: '10.77.0.2', six: 'fd77::2' } as const;
const SILENT_MAC = '02:00:00:00:00:99';

export type RigFamily = keyof typeof RIG_FRONTENDS;

/** The rig, until disposed. */
export interface SocketRig extends AsyncDisposable {
  readonly node: SocketClient;
  readonly pod: SocketClient;
  /** Paths of the namespaces of node and pod. */
  readonly namespaces: readonly [string, string];
  readonly services: ServicesTable;
  readonly maps: OpenMaps;
  /** Starts a server on the node, and says where. */
  listen(protocol: 'TCP' | 'UDP', family: RigFamily, name: string): Promise<Backend>;
  /** Lets a UDP server answer a client that it keeps waiting. */
  answer(family: RigFamily, name: string): Promise<void>;
  /** Writes a frontend, port 80 of RIG_FRONTENDS unless `fields` say another. */
  give(
    protocol: 'TCP' | 'UDP',
    family: RigFamily,
    fields: Partial<FrontendEntry> & Pick<FrontendEntry, 'backends'>,
  ): void;
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** Opens the rig. Default for `maglevTableSize`: 251. */
export async function openSocketRig(): Promise<SocketRig> {
  const name = `ist${randomBytes(3).toString('hex')}`;
  const names = [`${name}-node`, `${name}-pod`] as const;
  const open: (AsyncDisposable | Disposable)[] = [];
  const close = async (): Promise<void> => {
    for (const part of open.reverse()) {
      if (Symbol.asyncDispose in part) await part[Symbol.asyncDispose]();
      else part[Symbol.dispose]();
    }
  };
  try {
    for (const namespace of names) {
      ip('netns', 'add', namespace);
      open.push({ [Symbol.dispose]: () => ip('netns', 'delete', namespace) });
    }
    connect(...names);
    const bpffs = await openTestBpffs('socket-rig');
    open.push(bpffs);
    const cgroup = openTestCgroup();
    open.push(cgroup);
    const objects = loadObjects([join(OBJECT_DIR, 'mesh_socket.bpf.o')], {
      pinFolder: join(bpffs.path, 'maps'),
      mapSizes: {
        mesh_services: 1024,
        mesh_backends: 1024,
        mesh_affinity: 1024,
        mesh_affinity_members: 1024,
        mesh_maglev: 64,
        mesh_translations: 1024,
        mesh_choices: 1024,
      },
    });
    open.push(objects);
    const links = join(bpffs.path, 'links');
    mkdirSync(links);
    attachSockets(objects, cgroup.path, links);
    const clients = names.map((namespace) => openSocketClient(cgroup, { namespace }));
    const servers = openSocketClient(undefined, { namespace: names[0] });
    open.push(...clients, servers);
    const [node, pod] = clients;
    if (node === undefined || pod === undefined) throw new Error('no clients');
    const services = openServicesTable(objects.maps, { maglevTableSize: 251 });
    return {
      node,
      pod,
      namespaces: [`/run/netns/${names[0]}`, `/run/netns/${names[1]}`],
      services,
      maps: objects.maps,
      async listen(protocol, family, text) {
        const address = NODE[family];
        const server = `${protocol} ${family} ${text}`;
        const answer = await servers.call({
          kind: 'listen',
          protocol,
          address,
          text,
          name: server,
        });
        if (!('port' in answer) || answer.port === undefined) throw new Error('no server');
        return { address, port: answer.port, protocol, clusterId: 1 };
      },
      async answer(family, text) {
        const answer = await servers.call({ kind: 'answer', name: `UDP ${family} ${text}` });
        if ('error' in answer) throw new Error(`${text}: ${answer.error}`);
      },
      give(protocol, family, { backends, ...fields }) {
        const row = { protocol, address: RIG_FRONTENDS[family], ...fields };
        services.apply({ upserts: [testFrontend(backends, row)], deletes: [] });
      },
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Joins both namespaces. Frontends need a route, as a default route would be; silent neighbours are never asked for. */
function connect(node: string, pod: string): void {
  ip('-n', node, 'link', 'add', 'pod', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', pod);
  const ends = [
    { namespace: node, device: 'pod', addresses: NODE },
    { namespace: pod, device: 'eth0', addresses: POD },
  ];
  for (const { namespace, device, addresses } of ends) {
    const inside = (...args: string[]): void => ip('-n', namespace, ...args);
    inside('link', 'set', 'dev', 'lo', 'up');
    inside('address', 'add', `${addresses.four}/24`, 'dev', device);
    inside('address', 'add', `${addresses.six}/64`, 'dev', device, 'nodad');
    inside('link', 'set', 'dev', device, 'up');
    inside('route', 'add', 'default', 'dev', device);
    inside('-6', 'route', 'add', 'default', 'dev', device);
    for (const silent of Object.values(RIG_SILENT)) {
      inside('neigh', 'add', silent, 'lladdr', SILENT_MAC, 'dev', device, 'nud', 'permanent');
    }
  }
}

/** Name of an answering server, or the error. */
export function said(answer: { readonly said: string } | { readonly error: string }): string {
  return 'said' in answer ? answer.said : answer.error;
}

/** The form of an address that an IPv6 socket uses for it. */
export function mapped(address: IpAddress): string {
  return address.includes(':') ? address : `::ffff:${address}`;
}
