import { join } from 'node:path';
import { type IpAddress, parseIpAddress } from '../../../mesh/wire/ip.ts';
import { backendKeyOf } from '../backend-difference.ts';
import type { Backend, FrontendEntry } from '../desired.ts';
import { loadObjects, type OpenMaps } from '../object.ts';
import { type MaglevTableSize, maglevSizeFor } from '../ops/maglev.ts';
import { frontendKeyOf } from '../ops/service-map.ts';
import { openServiceMaps } from '../ops/services.ts';
import { maglevTableOf } from '../ops/services-frontend.ts';
import type { ServiceMaps } from '../ops/services-read.ts';
import { OBJECT_DIR, openTestBpffs } from './bpffs.ts';

/** Service maps of one test's own. */
export interface TestServiceMaps extends AsyncDisposable {
  readonly maps: OpenMaps;
  readonly kernel: ServiceMaps;
}

/** Small maps: an empty one of a million entries takes ten milliseconds to read. */
const SMALL = {
  mesh_services: 32_768,
  mesh_backends: 32_768,
  mesh_affinity: 1024,
  mesh_affinity_members: 32_768,
  mesh_maglev: 4096,
  mesh_translations: 1024,
  mesh_choices: 1024,
};

/** Makes service maps. Default for `sizes`: small ones. */
export async function openTestServiceMaps(
  sizes: Partial<Record<keyof typeof SMALL, number>> = {},
): Promise<TestServiceMaps> {
  const bpffs = await openTestBpffs('services');
  try {
    const objects = loadObjects([join(OBJECT_DIR, 'mesh_socket.bpf.o')], {
      pinFolder: join(bpffs.path, 'maps'),
      mapSizes: { ...SMALL, ...sizes },
    });
    return {
      maps: objects.maps,
      kernel: openServiceMaps(objects.maps),
      async [Symbol.asyncDispose]() {
        objects[Symbol.dispose]();
        await bpffs[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await bpffs[Symbol.asyncDispose]();
    throw error;
  }
}

/** A backend with a number of its own. */
export function testBackend(index: number, fields: Partial<Backend> = {}): Backend {
  const address = parseIpAddress(`10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`);
  return { address, port: 8080, protocol: 'TCP', clusterId: 1, ...fields };
}

const FRONTEND: IpAddress = parseIpAddress('172.20.0.1');

/** A frontend with what most of them have. */
export function testFrontend(
  backends: readonly Backend[],
  fields: Partial<FrontendEntry> = {},
): FrontendEntry {
  return {
    address: FRONTEND,
    port: 80,
    protocol: 'TCP',
    scope: 'internal',
    isExternal: false,
    backends,
    draining: [],
    affinitySeconds: 0,
    algorithm: 'random',
    service: 'ns/name',
    ...fields,
  };
}

/** All that can be said of a frontend, whatever the order of its backends. */
export function frontendText(row: FrontendEntry): string {
  const list = (backends: readonly Backend[]): string =>
    [...new Set(backends.map(backendKeyOf))].sort().join(', ');
  const { isExternal, affinitySeconds, algorithm } = row;
  return `${frontendKeyOf(row)}: ${isExternal} ${affinitySeconds} ${algorithm} [${list(row.backends)}] draining [${list(row.draining)}]`;
}

/**
 * What is wrong with the kernel's maps, a sentence each: anything of a frontend that a connect could trip over, and, unless
 * `garbage` is allowed, anything that nobody needs.
 */
export function findServiceFaults(
  kernel: ServiceMaps,
  options: { readonly maglevSize: MaglevTableSize; readonly garbage: boolean },
): string[] {
  const faults: string[] = [];
  const slots = kernel.slots.rows();
  const backends = new Map(kernel.backends.rows().map(({ id, backend }) => [id, backend]));
  const members = new Map(
    kernel.members
      .rows()
      .map(({ serviceId, backendId, state }) => [`${serviceId} ${backendId}`, state]),
  );
  const blocks = new Map(
    kernel.blocks
      .rows()
      .map(({ serviceId, block, backendIds }) => [`${serviceId} ${block}`, backendIds]),
  );
  const bySlot = new Map(slots.map((row) => [`${frontendKeyOf(row.frontend)} ${row.slot}`, row]));
  const usedBackends = new Set<number>();
  const usedMembers = new Set<string>();
  const usedBlocks = new Set<string>();
  const services = new Set<number>();
  let usedSlots = 0;
  for (const head of slots.filter(({ slot }) => slot === 0)) {
    const text = frontendKeyOf(head.frontend);
    if (head.serviceId === 0 || services.has(head.serviceId)) {
      faults.push(`${text} has number ${head.serviceId}`);
    }
    services.add(head.serviceId);
    usedSlots += head.count + 1;
    const placed: { key: string; backendId: number }[] = [];
    for (let index = 1; index <= head.count; index += 1) {
      const backendId = bySlot.get(`${text} ${index}`)?.backendId ?? 0;
      const backend = backends.get(backendId);
      if (backend === undefined) {
        faults.push(`${text} has no backend in slot ${index}`);
        continue;
      }
      usedBackends.add(backendId);
      placed.push({ key: backendKeyOf(backend), backendId });
      const member = `${head.serviceId} ${backendId}`;
      const wanted =
        head.affinitySeconds > 0 || head.frontend.protocol === 'UDP' ? 'active' : undefined;
      if (members.get(member) !== wanted) {
        faults.push(`${text} has member ${backendId} as ${members.get(member)}, not ${wanted}`);
      }
      usedMembers.add(member);
    }
    for (const [member, state] of members) {
      const [serviceId, backendId] = member.split(' ').map(Number);
      if (serviceId !== head.serviceId || usedMembers.has(member)) continue;
      if (state === 'active') faults.push(`${text} still has member ${backendId}`);
      if (state === 'draining' && backendId !== undefined && backends.has(backendId)) {
        usedMembers.add(member);
        usedBackends.add(backendId);
      }
    }
    if (head.maglevSize > 0) {
      const size = maglevSizeFor(head.count, options.maglevSize);
      if (size !== head.maglevSize || size === 0) {
        faults.push(`${text} has a table of ${head.maglevSize}, not ${size}`);
        continue;
      }
      const table = maglevTableOf(placed, size);
      for (let index = 0; index < size; index += 1) {
        const key = `${head.serviceId} ${Math.floor(index / 64)}`;
        usedBlocks.add(key);
        if (blocks.get(key)?.[index % 64] === table[index]) continue;
        faults.push(`${text} has another table from ${index} on`);
        break;
      }
    }
  }
  if (options.garbage) return faults;
  if (slots.length !== usedSlots) faults.push(`${slots.length - usedSlots} slots are left over`);
  for (const id of backends.keys()) {
    if (!usedBackends.has(id)) faults.push(`backend ${id} is left over`);
  }
  for (const member of members.keys()) {
    if (!usedMembers.has(member)) faults.push(`member ${member} is left over`);
  }
  if (blocks.size !== usedBlocks.size)
    faults.push(`${blocks.size - usedBlocks.size} blocks are left over`);
  return faults;
}
