import { join } from 'node:path';
import type { Datapath } from '../datapath/desired.ts';
import { loadObjects, type MapSizes } from '../datapath/object.ts';
import { openEndpointsTable } from '../datapath/ops/endpoints.ts';
import { openIpcacheTable } from '../datapath/ops/ipcache.ts';
import { openPolicyTable } from '../datapath/ops/policy.ts';
import { openServicesTable } from '../datapath/ops/services.ts';
import { OBJECT_FILES } from '../datapath/preflight.ts';
import { OBJECT_DIR, openTestBpffs } from '../datapath/testing/bpffs.ts';

/** A datapath of real eBPF maps that no packet passes: nothing is attached. Disposing removes the maps. */
export async function openKernelTables(mapSizes: MapSizes = {}): Promise<Datapath> {
  const bpffs = await openTestBpffs('kernel-tables');
  const objects = loadObjects(
    OBJECT_FILES.map((name) => join(OBJECT_DIR, name)),
    { pinFolder: join(bpffs.path, 'maps'), mapSizes: { mesh_ct: 1024, ...mapSizes } },
  );
  return {
    ipcache: openIpcacheTable(objects.maps),
    endpoints: openEndpointsTable(objects.maps),
    policy: openPolicyTable(objects.maps),
    services: openServicesTable(objects.maps),
    attachEndpoint: () => undefined,
    detachEndpoint: () => undefined,
    counters: () => [],
    capacities: () => [],
    detached: () => [],
    uninstall: async () => undefined,
    async [Symbol.asyncDispose]() {
      objects[Symbol.dispose]();
      await bpffs[Symbol.asyncDispose]();
    },
  };
}
