import type { ServiceDefinition } from '@grpc/grpc-js';
import { Server, ServerCredentials, type sendUnaryData } from '@grpc/grpc-js';
import { type Test, test } from 'tap';
import { loadProtoFile } from '../runtime/proto-file.ts';
import { openWatchLog } from '../testing/watch-log.ts';
import { openEtcd } from './etcd.ts';

/** What a scripted server answers. */
interface Script {
  range(request: { key: Buffer }): object;
  /** Messages on a watch stream after its creation. */
  watch?: () => readonly object[];
}

const header = { cluster_id: '77', member_id: '1', revision: '10', raft_term: '1' };

function wirePair(key: string) {
  return {
    key: Buffer.from(key),
    value: Buffer.from('x'),
    mod_revision: '5',
    create_revision: '5',
    version: '1',
  };
}

async function openServer(t: Test, script: Script): Promise<string> {
  const services = loadProtoFile('mesh/wire/etcd.proto');
  const server = new Server();
  server.addService(services['etcdserverpb.KV'] as ServiceDefinition, {
    Range: (call: { request: { key: Buffer } }, answer: sendUnaryData<object>) =>
      answer(null, script.range(call.request)),
    Put: () => undefined,
    DeleteRange: () => undefined,
    Txn: () => undefined,
    Compact: () => undefined,
  });
  server.addService(services['etcdserverpb.Watch'] as ServiceDefinition, {
    Watch: (call: NodeJS.EventEmitter & { write(answer: object): void; end(): void }) => {
      call.once('data', () => {
        call.write({ header, created: true });
        for (const message of script.watch?.() ?? []) call.write(message);
        if (script.watch?.().length === 0) call.end();
      });
    },
  });
  t.teardown(() => server.forceShutdown());
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    );
  });
  return `http://127.0.0.1:${port}`;
}

test('answers of a hostile server are refused, and no key of them is shown', async (t) => {
  const empty = { header, kvs: [], more: false };
  const cases: readonly {
    name: string;
    script: Script;
    message: RegExp;
    keys?: readonly string[];
  }[] = [
    {
      name: 'a listed key outside the prefix',
      script: { range: () => ({ header, kvs: [wirePair('b/1')], more: false }) },
      message: /sent key "b\/1", which was not asked for/,
    },
    {
      name: 'one page for ever',
      script: { range: () => ({ header, kvs: [wirePair('a/1')], more: true }) },
      message: /sent keys again/,
      keys: ['a/1'],
    },
    {
      name: 'an empty page that promises more',
      script: { range: () => ({ header, kvs: [], more: true }) },
      message: /promised more keys and sent none/,
    },
    {
      name: 'a change of a key outside the prefix',
      script: {
        range: () => empty,
        watch: () => [{ header, events: [{ type: 'PUT', kv: wirePair('b/1') }] }],
      },
      message: /sent key "b\/1", which was not asked for/,
    },
    {
      name: 'a watch canceled without a reason',
      script: { range: () => empty, watch: () => [{ header, canceled: true }] },
      message: /canceled the watch: without a reason/,
    },
    {
      name: 'a watch ended at once',
      script: { range: () => empty, watch: () => [] },
      message: /ended the watch/,
    },
  ];
  for (const { name, script, message, keys = [] } of cases) {
    const endpoint = await openServer(t, script);
    await using store = await openEtcd({ endpoints: [endpoint], retry: { minMs: 10, maxMs: 50 } });
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until(name, () => log.of('disconnected').length > 0);
    t.match(log.of('disconnected')[0]?.error, { name: 'KvError', message }, name);
    t.same([...log.held.keys()], keys, `${name}: what is shown`);
  }
});

test('pages of two clusters are not mixed', async (t) => {
  const other = { ...header, cluster_id: '78' };
  let calls = 0;
  const endpoint = await openServer(t, {
    range: () => {
      calls += 1;
      return {
        header: calls % 2 === 1 ? header : other,
        kvs: [wirePair(`a/${calls}`)],
        more: true,
      };
    },
  });
  await using store = await openEtcd({ endpoints: [endpoint] });
  await t.rejects(store.list('a/'), {
    code: 'cluster-changed',
    message: /cluster 4d .* cluster 4e/,
  });
});

test('a malformed answer is an error of that call alone', async (t) => {
  const endpoint = await openServer(t, {
    range: () => ({ header, kvs: [wirePair('a/1')], more: false }),
  });
  await using store = await openEtcd({ endpoints: [endpoint] });
  await t.rejects(store.get('b/1'), { code: 'invalid', message: /not asked for/ });
  t.equal((await store.get('a/1'))?.value.toString(), 'x');
});
