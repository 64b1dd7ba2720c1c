import { test } from 'tap';
import { decodeMeshDigest, hashEntry } from '../../mesh/wire/digest.ts';
import { meshDigestKey } from '../../mesh/wire/keys.ts';
import { kindsOf } from '../convert/published-sets.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { createPushedRig, type PushedRig } from '../testing/pushed-publisher.ts';

const IP = 'cilium/state/ip/v1/default/';
const ID = 'cilium/state/identities/v1/id/';
const LOCAL_IP = 'isthmus/local/ip/';
const LOCAL_ID = 'isthmus/local/identities/';
const PREFIXES = [IP, LOCAL_IP, ID, LOCAL_ID] as const;

const namespace = (name: string, global?: string) => ({
  kind: 'Namespace',
  metadata: {
    name,
    annotations: global === undefined ? {} : { 'clustermesh.cilium.io/global': global },
  },
});
const pod = (name: string, ns: string, ip: string) => ({
  kind: 'Pod',
  metadata: { name, namespace: ns, labels: { app: name } },
  status: { podIP: ip, hostIP: '192.0.2.1' },
});

/** What stands in both places: addresses, and pods' names by the `app` of identities. */
async function standing(rig: PushedRig): Promise<Record<string, readonly string[]>> {
  const found: Record<string, readonly string[]> = {};
  for (const prefix of PREFIXES) {
    const entries = [...(await rig.read(prefix))];
    const isId = prefix === ID || prefix === LOCAL_ID;
    const name = ([key, value]: [string, string]): string =>
      isId ? (/k8s:app=([^;]*)/.exec(value)?.[1] ?? '') : key.slice(prefix.length);
    found[prefix] = entries.map(name).sort();
  }
  return found;
}

/** What is wrong with the digest of a prefix; undefined when it is right. */
async function digestOf(rig: PushedRig, prefix: string): Promise<string | undefined> {
  const key = meshDigestKey(prefix);
  const text = (await rig.read('isthmus/')).get(key);
  if (text === undefined) return `${key} is missing`;
  const entries = [...(await rig.read(prefix))];
  let sum = 0n;
  for (const [name, value] of entries) {
    const [high, low] = hashEntry(name, Buffer.from(value));
    sum += (BigInt(high) << 32n) + BigInt(low);
  }
  const expected = {
    count: entries.length,
    sum: BigInt.asUintN(64, sum).toString(16).padStart(16, '0'),
  };
  const said = decodeMeshDigest(Buffer.from(text), key);
  if (said.count === expected.count && said.sum === expected.sum) return undefined;
  return `${key} says ${text}, expected ${JSON.stringify(expected)}`;
}

test('what a namespace hides stands where only own agents read, and moves when it is switched', async (t) => {
  const rig = createPushedRig();
  await using one = rig.start({ identityGraceMs: 60 });
  one.set(namespace('open'), namespace('hidden', 'false'));
  one.set(pod('a', 'open', '10.1.0.1'), pod('b', 'hidden', '10.1.0.2'));
  one.synced(...kindsOf('any-cni'));
  await one.publisher.ready;
  t.same(await standing(rig), {
    [IP]: ['10.1.0.1'],
    [LOCAL_IP]: ['10.1.0.2'],
    [ID]: ['a'],
    [LOCAL_ID]: ['b'],
  });
  t.equal(await digestOf(rig, LOCAL_IP), undefined);
  t.equal(await digestOf(rig, IP), undefined);
  const readableByPeers = [...(await rig.read('cilium/')), ...(await rig.read('isthmus/mesh/'))];
  t.notOk(readableByPeers.some(([key, value]) => /10\.1\.0\.2|hidden|local/.test(key + value)));
  const numberOf = async (prefix: string): Promise<string | undefined> =>
    [...(await rig.read(prefix))]
      .find(([, value]) => value.includes('app=b'))?.[0]
      .slice(prefix.length);
  const number = await numberOf(LOCAL_ID);
  t.match((await rig.read(LOCAL_IP)).get(`${LOCAL_IP}10.1.0.2`), `"ID":${number},`);

  // Its number is written where peers read before the address that carries it.
  one.set(namespace('hidden'));
  await rig.until(`${IP}10.1.0.2`);
  t.equal(await numberOf(ID), number, 'the number stays');
  await rig.until(`${LOCAL_IP}10.1.0.2`, false);
  await eventually(
    'its labels to stand once',
    async () => (await numberOf(LOCAL_ID)) === undefined,
  );

  one.set(namespace('hidden', 'false'));
  await rig.until(`${LOCAL_IP}10.1.0.2`);
  await rig.until(`${IP}10.1.0.2`, false);
  await eventually('its labels to be hidden', async () => (await numberOf(ID)) === undefined);
  t.equal(await numberOf(LOCAL_ID), number);
  t.equal(await digestOf(rig, LOCAL_IP), undefined);

  one.remove(pod('b', 'hidden', '10.1.0.2'));
  await rig.until(`${LOCAL_IP}10.1.0.2`, false);
  await eventually('its number to go', async () => (await rig.read(LOCAL_ID)).size === 0);
});

test('a switch never leaves an address or its identity nowhere', async (t) => {
  const rig = createPushedRig();
  const reader = rig.store.connect({ alwaysConnected: true });
  await using one = rig.start({ identityGraceMs: 30 });
  one.set(namespace('x'), pod('b', 'x', '10.1.0.2'));
  one.synced(...kindsOf('any-cni'));
  await one.publisher.ready;
  const gaps: string[] = [];
  const ending = new AbortController();
  // Every revision is looked at: what is hidden and shown changes in steps, and in each of them it stands somewhere.
  const seen = new Set<bigint>();
  const look = async (revision: bigint): Promise<void> => {
    if (seen.has(revision)) return;
    seen.add(revision);
    const count = async (...prefixes: string[]): Promise<number> => {
      let sum = 0;
      for (const prefix of prefixes) sum += (await reader.count(prefix, { revision })).count;
      return sum;
    };
    if ((await count(IP, LOCAL_IP)) === 0) gaps.push(`no address at ${revision}`);
    if ((await count(ID, LOCAL_ID)) === 0) gaps.push(`no identity at ${revision}`);
  };
  const watching = (async () => {
    const watches = ['cilium/', 'isthmus/'].map(async (prefix) => {
      let isListing = true;
      for await (const event of reader.watch({ prefix }, { signal: ending.signal })) {
        if (event.kind === 'synced') isListing = false;
        if (isListing) continue;
        if (event.kind === 'put') await look(event.pair.modRevision);
        else if (event.kind === 'delete') await look(event.modRevision);
      }
    });
    await Promise.all(watches);
  })();
  for (const global of ['false', 'true', 'false', 'true', 'false']) {
    one.set(namespace('x', global));
    const [there, gone] = global === 'true' ? [IP, LOCAL_IP] : [LOCAL_IP, IP];
    await rig.until(`${there}10.1.0.2`);
    await rig.until(`${gone}10.1.0.2`, false);
    const idPrefix = global === 'true' ? ID : LOCAL_ID;
    await eventually('the labels to follow', async () => (await rig.read(idPrefix)).size === 1);
  }
  ending.abort();
  await watching;
  t.ok(seen.size > 8, `${seen.size} revisions were looked at`);
  t.same(gaps, []);
});

test('a successor takes over what is hidden, and sweeps what is not any more', async (t) => {
  const rig = createPushedRig();
  {
    await using first = rig.start();
    first.set(namespace('hidden', 'false'));
    first.set(pod('a', 'hidden', '10.1.0.1'), pod('b', 'hidden', '10.1.0.2'));
    first.synced(...kindsOf('any-cni'));
    await first.publisher.ready;
  }
  const before = await rig.read(LOCAL_ID);
  await using second = rig.start();
  second.set(namespace('hidden', 'false'), pod('b', 'hidden', '10.1.0.2'));
  second.synced('Namespace');
  await second.publisher.begun;
  t.equal((await rig.read(LOCAL_IP)).size, 2, 'nothing goes before all pods have been told');
  second.synced(...kindsOf('any-cni'));
  await second.publisher.ready;
  t.same((await standing(rig))[LOCAL_IP], ['10.1.0.2']);
  t.same(await rig.read(LOCAL_ID), before, 'numbers stay');
  t.equal(await digestOf(rig, LOCAL_IP), undefined);
});

test('labels that are used in both kinds of namespaces are public, and their number is one', async (t) => {
  const rig = createPushedRig();
  // Without the label of their namespace pods of two namespaces have one identity.
  const labelFilter = { includes: (key: string) => key === 'app' };
  await using one = rig.start({ conversion: { labelFilter }, identityGraceMs: 60 });
  one.set(namespace('open'), namespace('hidden', 'false'), pod('a', 'hidden', '10.1.0.1'));
  one.synced(...kindsOf('any-cni'));
  await one.publisher.ready;
  t.same(
    [...(await rig.read(LOCAL_ID)).values()],
    ['k8s:app=a;k8s:io.cilium.k8s.policy.cluster=alpha;'],
  );
  one.set(pod('a', 'open', '10.1.0.2'));
  await rig.until(`${IP}10.1.0.2`);
  await eventually('one place', async () => (await rig.read(LOCAL_ID)).size === 0);
  t.same(await standing(rig), {
    [IP]: ['10.1.0.2'],
    [LOCAL_IP]: ['10.1.0.1'],
    [ID]: ['a'],
    [LOCAL_ID]: [],
  });
});

test('a cluster that becomes one of Cilium has nothing of its own beside any more', async (t) => {
  const rig = createPushedRig();
  {
    await using first = rig.start();
    first.set(namespace('hidden', 'false'), pod('a', 'hidden', '10.1.0.1'));
    first.synced(...kindsOf('any-cni'));
    await first.publisher.ready;
  }
  await using second = rig.start({ conversion: { mode: 'cilium' } });
  second.synced(...kindsOf('cilium'));
  await second.publisher.ready;
  t.same(await standing(rig), { [IP]: [], [LOCAL_IP]: [], [ID]: [], [LOCAL_ID]: [] });
});
