import { X509Certificate } from 'node:crypto';
import { type Test, test } from 'tap';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { nodeUidOf, nodeUidUris } from '../gate/node-uid.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import type { ObjectEvent } from '../sources/object-event.ts';
import { parseObject } from '../sources/objects.ts';
import { createNodeTrust } from './node-trust.ts';

const FIRST = '6a0b8b9e-2d53-4c79-9f5e-1f3d0c9a7b11';
const SECOND = '0f3c2c62-6a4e-4b58-8d1b-3a9f6a1f2e22';
const SYNCED: ObjectEvent = { kind: 'synced', kinds: ['Node'] };

function node(kind: 'upsert' | 'delete', name: string, uid: string): ObjectEvent {
  const input = { apiVersion: 'v1', kind: 'Node', metadata: { name, uid } };
  return { kind, object: parseObject(input, ['Node']) };
}

/** A book over an API server that has the Nodes of `served`, or answers nothing. */
function openBook(t: Test) {
  const served = new Map<string, string>();
  const asked: string[] = [];
  const state = { isReachable: true };
  const api: Pick<KubernetesApi, 'request'> = {
    async request({ path, query }) {
      const name = String(query?.fieldSelector).replace('metadata.name=', '');
      asked.push(`${path} ${name}`);
      if (!state.isReachable) throw new KubernetesError('unavailable', 'no answer');
      const uid = served.get(name);
      const items = uid === undefined ? [] : [{ metadata: { name, uid } }];
      return { status: 200, body: { metadata: { resourceVersion: '7' }, items } };
    },
  };
  const clock = createManualClock({ now: 0 });
  const book = createNodeTrust({ api, clock, logger: createLogger('test', { level: 'silent' }) });
  const ending = new AbortController();
  const running = book.run(ending.signal);
  t.teardown(async () => {
    ending.abort();
    await running;
  });
  let told = 0;
  book.trust.onChange(() => {
    told += 1;
  });
  return {
    book,
    served,
    asked,
    state,
    clock,
    told: () => told,
    judge: (name: string, uid?: string) => book.trust.judge(`node-${name}`, uid),
    settle: () => clock.advance(0),
  };
}

test('a certificate ends with its Node, when the API server says so for that Node', async (t) => {
  const { book, served, asked, judge, settle, told } = openBook(t);
  served.set('n2', SECOND);
  book.take([node('upsert', 'n1', FIRST), node('upsert', 'n2', SECOND)]);
  t.equal(told(), 0);
  t.equal(judge('gone', FIRST), undefined, 'before all Nodes have been told nobody can say');
  book.take([SYNCED]);
  t.equal(judge('n1', FIRST), undefined);
  t.equal(judge('n1'), undefined, 'a certificate of before names no Node');
  t.same(asked, []);

  book.take([node('delete', 'n1', FIRST)]);
  t.equal(judge('n1', FIRST), undefined, 'it is asked for first');
  const before = told();
  await settle();
  t.same(asked, ['/api/v1/nodes n1']);
  t.equal(told(), before + 1);
  t.equal(judge('n1', FIRST), 'unknown-node');
  t.equal(judge('n1'), 'unknown-node');
  t.equal(judge('n2', SECOND), undefined, 'the others are as before');

  book.take([node('upsert', 'n1', SECOND)]);
  served.set('n1', SECOND);
  t.equal(judge('n1', SECOND), undefined, 'made anew it may come again');
  t.ok(judge('n1', FIRST), 'and what was refused stays so while it is asked for');
  await settle();
  t.equal(judge('n1', FIRST), 'former-node');
  t.equal(judge('n1'), undefined);
});

test('nobody ends because the API server is out of reach, or has lost its objects', async (t) => {
  const { book, served, state, asked, judge, settle, clock } = openBook(t);
  book.take([node('upsert', 'n1', FIRST), node('upsert', 'n2', SECOND), SYNCED]);
  served.set('n1', FIRST);
  state.isReachable = false;
  book.take([node('delete', 'n1', FIRST)]);
  t.equal(judge('n1', FIRST), undefined);
  await settle();
  t.equal(judge('n1', FIRST), undefined, 'it cannot be asked');
  await settle();
  t.equal(asked.length, 2, 'it is asked again with each look');
  state.isReachable = true;
  judge('n1', FIRST);
  await settle();
  t.equal(judge('n1', FIRST), undefined, 'a watch that lost a Node is not believed');

  served.clear();
  await clock.advance(5000);
  judge('n1', FIRST);
  await settle();
  t.equal(judge('n1', FIRST), 'unknown-node');
  book.take([node('delete', 'n2', SECOND)]);
  t.equal(judge('n1', FIRST), undefined, 'a cluster without Nodes has lost them');
  t.equal(judge('n2', SECOND), undefined);
});

test('a Node that the watch has not told yet is no stranger', async (t) => {
  const { book, served, judge, settle, asked } = openBook(t);
  book.take([node('upsert', 'n2', SECOND), SYNCED]);
  served.set('n1', FIRST);
  t.equal(judge('n1', FIRST), undefined);
  await settle();
  t.equal(judge('n1', FIRST), undefined);
  t.equal(judge('n1', SECOND), 'former-node');
  t.equal(asked.length, 1, 'an answer counts for some seconds');
  t.match(await book.find('n1', new AbortController().signal), { kind: 'there', uid: FIRST });
  t.equal(book.trust.judge('machine-n1', undefined), undefined, 'machines are judged elsewhere');
});

test('nodeUidOf() reads what nodeUidUris() writes, and nothing else', async (t) => {
  const ca = await createCa();
  const issue = async (uris: readonly string[]): Promise<string | undefined> => {
    const options = { commonName: 'node-n1', usage: 'client', uris } as const;
    return nodeUidOf(new X509Certificate((await issueCertificate(ca, options)).certificate));
  };
  t.equal(await issue(nodeUidUris(FIRST)), FIRST);
  t.equal(await issue(nodeUidUris('anything, URI:urn:uuid:')), undefined);
  t.equal(await issue([]), undefined);
  t.equal(await issue([...nodeUidUris(FIRST), ...nodeUidUris(SECOND)]), undefined);
  t.equal(await issue(['urn:uuid:x']), undefined);
  t.equal(await issue([`https://example.com/, URI:urn:uuid:${FIRST}`]), undefined, 'forged');
});
