import { type Test, test } from 'tap';
import { type EtcdServer, etcdSkipReason, openEtcdServer } from '../testing/etcd-server.ts';
import { openFaultyProxy } from '../testing/faulty-proxy.ts';
import { testConformance } from './conformance.ts';
import { openEtcd } from './etcd.ts';

const skip = etcdSkipReason(process.env);

test('etcd behaves as every store', { skip }, async (t: Test) => {
  await using server = await openEtcdServer();
  await testConformance(t, { open: () => openSubject(server) });
});

async function openSubject(server: EtcdServer) {
  await server.etcdctl('del', '', '--from-key');
  const proxy = await openFaultyProxy({ targetPort: server.port });
  const options = { maxValueBytes: 1024 * 1024, pageSize: 10, retry: { minMs: 20, maxMs: 200 } };
  const store = await openEtcd({ ...options, endpoints: [`http://127.0.0.1:${proxy.port}`] });
  const direct = await openEtcd({ ...options, endpoints: [server.endpoint] });
  return {
    store,
    direct,
    disconnect: async () => {
      proxy.setFaults({ refuse: true });
      proxy.cut();
    },
    reconnect: async () => proxy.setFaults({}),
    compact: () => server.compact(),
    wipe: () => server.wipe(),
    expireLease: async (lease: { id: bigint }) => {
      await server.etcdctl('lease', 'revoke', lease.id.toString(16));
    },
    [Symbol.asyncDispose]: async () => {
      await store[Symbol.asyncDispose]();
      await direct[Symbol.asyncDispose]();
      await proxy[Symbol.asyncDispose]();
    },
  };
}
