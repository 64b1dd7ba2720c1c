/** The histories of `model.test.ts`, some of them, on a real etcd behind a proxy that cuts, and on real eBPF maps. */
import fc from 'fast-check';
import { test } from 'tap';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import { etcdSkipReason, openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { openFaultyProxy } from '../mesh/testing/faulty-proxy.ts';
import type { Datapath } from './datapath/desired.ts';
import { kernelSkipReason } from './datapath/testing/bpffs.ts';
import { openKernelTables } from './testing/kernel-tables.ts';
import { type ModelStore, runModel } from './testing/model-run.ts';
import { modelSteps } from './testing/model-steps.ts';

const RUNS = Number(process.env.ISTHMUS_MODEL_KERNEL_RUNS ?? 6);
const SEED = Number(process.env.ISTHMUS_MODEL_SEED ?? Date.now() % 2 ** 31);
const skip = kernelSkipReason() || etcdSkipReason(process.env);

/** An etcd for one history. Its writer goes straight to it, the agent through the proxy. */
async function openEtcdModelStore(): Promise<ModelStore & AsyncDisposable> {
  const server = await openEtcdServer();
  const proxy = await openFaultyProxy({ targetPort: server.port });
  const writer = await openEtcd({ endpoints: [server.endpoint] });
  return {
    writer,
    connect: () => openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`] }),
    cut() {
      proxy.setFaults({ refuse: true });
      proxy.cut();
    },
    restore: () => proxy.setFaults({}),
    async compact() {
      // Nothing can be compacted twice at one revision.
      await writer.put('model', 'compact');
      await server.compact();
    },
    wipe: () => server.wipe(),
    async [Symbol.asyncDispose]() {
      await writer[Symbol.asyncDispose]();
      await proxy[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

test('on a real etcd and in the kernel, too, a history ends in the tables that the model says', {
  skip,
}, async (t) => {
  t.comment(`seed ${SEED}, ${RUNS} runs`);
  await fc.assert(
    fc.asyncProperty(modelSteps(), async (steps) => {
      await using store = await openEtcdModelStore();
      await using datapath: Datapath = await openKernelTables();
      const undo: (() => Promise<void>)[] = [];
      try {
        await runModel(steps, {
          store,
          // What the agent disposes of at its end is to outlive it, as pinned maps do.
          datapath: { ...datapath, [Symbol.asyncDispose]: async () => undefined },
          deadlineMs: 60_000,
          teardown: (last) => undo.push(last),
        });
      } finally {
        for (const last of undo.reverse()) await last();
      }
    }),
    { numRuns: RUNS, seed: SEED, endOnFailure: true, includeErrorInReport: true },
  );
});
