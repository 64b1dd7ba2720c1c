import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { openRawClient } from '../../clustermesh-apiserver/gate/testing/raw-client.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { lookAtServer } from '../../mesh/runtime/server-look.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { readCa } from '../../pki/authority-file.ts';
import { fingerprintOf, type KeyPair } from '../../pki/ca.ts';
import { removePeer, writePrivateFile } from '../../pki/layout.ts';
import { ENROLLMENT_PORT, REGISTRY_PORT } from '../lab/apiserver.ts';
import { enrollmentCaFiles, peersFolder, peerTrustFolder, pkiFolder } from '../lab/certificates.ts';
import type { Lab } from '../lab/lab.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { reachNode } from '../lab/reach.ts';
import {
  adminFiles,
  type Bustle,
  callersOf,
  type GateWatch,
  startBustle,
  watchGate,
} from './rotation-lab.ts';
import {
  CLUSTERS,
  keyPairOf,
  machinePair,
  reissueAll,
  renewAll,
  rotate,
  shownIn,
  untilInUse,
  untilShown,
  usedFolders,
} from './used-certificates.ts';
import { openVmLab, vmTopology } from './vm-lab.ts';

const skip = labSkipReason(process.env);
const isLong = process.env.ISTHMUS_LONG === 'true';
/** How long certificates live. In a long run they are renewed at two thirds of that; in a short one none runs out. */
const LIFE_MS = isLong ? 30_000 : 600_000;
const ROUNDS = isLong ? 20 : 10;
const DAY_MS = 86_400_000;
/** What a revocation may take. */
const BOUND_MS = 10_000;

/** Waits until all agents and the watch have heard of something that is written now. */
async function checkFlow(
  lab: Lab,
  { bustle, watch, what }: { bustle: Bustle; watch: GateWatch; what: string },
): Promise<void> {
  const port = await bustle.flows(what);
  await lab.waitFor(`the watch to hear of it: ${what}`, () =>
    watch.changes().some((change) => change.port >= port),
  );
}

/** Lists of changes without a gap, each as it was written. */
function checkWatch(t: Test, changes: readonly { version: number }[], what: string): void {
  const [first] = changes;
  t.ok(first !== undefined, `${what}: it has heard something`);
  const versions = changes.map(({ version }) => version);
  const expected = versions.map((_, index) => (first?.version ?? 0) + index);
  t.same(versions, expected, `${what}: every change, once, in order`);
}

async function checkTraffic(t: Test, bustle: Bustle): Promise<void> {
  for (const [place, { connections, streams }] of await bustle.stop()) {
    for (const [target, { begun, answered, failures }] of Object.entries(connections)) {
      t.same(failures, [], `${place} to ${target}: no connection of ${begun} failed`);
      t.equal(answered, begun);
      t.ok(begun > 20, `${place} to ${target}: there were some`);
    }
    for (const [target, { failure, bytes }] of Object.entries(streams)) {
      t.equal(failure, undefined, `${place} to ${target}: the stream went on`);
      t.ok(bytes > 0);
    }
  }
}

/** Waits until something is so; resolves to the milliseconds since `began`. */
async function timeUntil(
  lab: Lab,
  what: string,
  options: { readonly began: number; readonly look: () => Promise<boolean> | boolean },
): Promise<number> {
  await lab.waitFor(what, options.look);
  return Math.round(systemClock.monotonic() - options.began);
}

test('certificates are replaced and taken back while everything goes on', {
  skip,
  timeout: isLong ? 1_800_000 : 900_000,
}, async (t) => {
  await using dir = await openTempDir('rotation');
  const revokedFile = dir.file('revoked.yaml');
  await writePrivateFile(revokedFile, '');
  const topology = vmTopology();
  const [db] = topology.machines ?? [];
  const late = { ...db!, name: 'late', joined: false };
  await using lab = await openVmLab(
    { ...topology, machines: [db!, late] },
    {
      apiserverFlags: [
        `--revoked-file=${revokedFile}`,
        `--machine-certificate-ttl=${isLong ? LIFE_MS / 1000 : 120}s`,
      ],
    },
  );
  await using gate = await reachNode(lab, 'alpha-1', 2379);
  await using registry = await reachNode(lab, 'alpha-1', REGISTRY_PORT);
  await using enrollment = await reachNode(lab, 'alpha-1', ENROLLMENT_PORT);
  const takes = async (port: number, pair: KeyPair): Promise<boolean | undefined> => {
    const caller = { cert: pair.certificate, key: pair.privateKey };
    return (await lookAtServer({ host: '127.0.0.1', port, name: 'localhost', caller })).takesCaller;
  };
  /** Asks the gate for a key that all may read; rejects with its answer when that is no. */
  const ask = async (pair: KeyPair, ca: string): Promise<true> => {
    const tls = { ca, cert: pair.certificate, key: pair.privateKey };
    using client = openRawClient(`https://127.0.0.1:${gate.port}`, tls);
    await client.call('KV', 'Range', { key: Buffer.from('cilium/.heartbeat') });
    return true;
  };
  const watchAs = (pair: KeyPair, ca: string) => {
    const tls = { ca, cert: pair.certificate, key: pair.privateKey };
    const client = openRawClient(`https://127.0.0.1:${gate.port}`, tls);
    const watch = client.watch({
      key: Buffer.from('cilium/state/'),
      range_end: Buffer.from('cilium/state0'),
    });
    return { client, watch };
  };
  const bustle = await startBustle(lab);
  const renewals = async (): Promise<number> => {
    const log = await readFile(lab.machine('db').agent.log, 'utf8');
    return log.split('the certificate of this machine was renewed').length - 1;
  };

  await t.test(`certificates are replaced ${ROUNDS} times (promise 18)`, async (t) => {
    await using watch = watchGate(lab, 'lasting', adminFiles(lab, 'alpha'));
    await lab.waitFor('the first change that the watch hears', () => watch.changes().length > 0);
    for (const name of CLUSTERS) await reissueAll(lab, name, LIFE_MS);
    const spent = new Set<string>();
    for (let round = 1; round <= ROUNDS; round += 1) {
      const began = systemClock.monotonic();
      // In a short run the clusters take turns.
      const names = isLong ? CLUSTERS : [round % 2 === 0 ? 'alpha' : 'beta'];
      for (const fingerprint of await renewAll(lab, names)) spent.add(fingerprint);
      await untilShown(lab, [gate, registry, enrollment]);
      if (!isLong) continue;
      await untilInUse(lab, `round ${round}`);
      const tookMs = systemClock.monotonic() - began;
      t.comment(`round ${round}: in use everywhere after ${Math.round(tookMs)} ms`);
      await systemClock.sleep(Math.max(0, (LIFE_MS * 2) / 3 - tookMs));
    }
    if (isLong) t.ok((await renewals()) >= ROUNDS - 2, 'the machine has renewed its own each time');
    // From here on none is short any more: what follows takes longer where others work, too.
    for (const name of CLUSTERS) {
      for (const fingerprint of await shownIn(usedFolders(lab, name))) spent.add(fingerprint);
    }
    for (const name of CLUSTERS) await reissueAll(lab, name, DAY_MS);
    await untilInUse(lab, 'lives are long again');
    // Nothing depends on one of those before.
    const list = [...spent].map((fingerprint) => `- fingerprint: ${fingerprint}\n`).join('');
    await writePrivateFile(revokedFile, list);
    await checkFlow(lab, { bustle, watch, what: 'by the last certificates alone' });
    t.ok(watch.isRunning());
    checkWatch(t, watch.changes(), 'the watch by etcdctl');
    t.same([...bustle.faults], []);
  });

  await t.test('the authorities of both clusters (promise 10)', async (t) => {
    const old = lab.certificates.get('alpha')!.ca;
    const oldMachine = await machinePair(lab);
    const oldWatch = watchAs(await keyPairOf(old, 'admin-alpha'), old.root);
    t.teardown(() => oldWatch.client[Symbol.dispose]());
    for (const name of CLUSTERS) await rotate(lab, name, 'add');
    // Machines hear of it by their sessions: nothing of theirs is among the files.
    await lab.waitFor('the machine to believe both', async () => {
      const { ca } = await machinePair(lab);
      return ca.split('BEGIN CERTIFICATE').length === 3;
    });
    for (const name of CLUSTERS) await rotate(lab, name, 'switch');
    await untilShown(lab, [gate, registry, enrollment]);
    const admin = adminFiles(lab, 'alpha');
    await using watch = watchGate(lab, 'switched', admin);
    await lab.waitFor('the first change that the watch hears', () => watch.changes().length > 0);
    t.equal(oldWatch.watch.error, undefined, 'until then who shows an old one is served');
    const enrolling = await readFile(enrollmentCaFiles(lab.cluster('alpha')).certificate, 'utf8');
    await lab.waitFor('the machine to have one by the new authority', async () =>
      (await machinePair(lab)).certificate.includes(enrolling.trim()),
    );
    await untilInUse(lab, 'by the new authorities');
    for (const name of CLUSTERS)
      t.match(await rotate(lab, name, 'remove'), /believes the old authority no more/, name);
    const cutMs = await timeUntil(lab, 'who shows one of the old authority is cut', {
      began: systemClock.monotonic(),
      look: () => oldWatch.watch.error !== undefined,
    });
    t.comment(`who shows one of the old authority is cut after ${cutMs} ms`);
    for (const [who, pair] of [
      ['a node', await keyPairOf(old, 'node-alpha-1')],
      ['an administrator', await keyPairOf(old, 'admin-alpha')],
      ['the machine', oldMachine],
    ] as const) {
      t.equal(await takes(gate.port, pair), false, `${who} of the old authority at the gate`);
      t.equal(await takes(registry.port, pair), false, `${who} of the old authority, registry`);
    }
    await lab.waitFor('the machine to believe the new one alone', async () => {
      const { ca } = await machinePair(lab);
      return ca.split('BEGIN CERTIFICATE').length === 2;
    });
    await lab.waitFor('the machine as it is now to be served', async () => {
      const machine = await machinePair(lab);
      return ask(machine, machine.ca);
    });
    const joined = await lab.machine('late').tryJoin(await lab.machine('late').createToken());
    t.equal(joined.code, 0, `a machine enrols by a new token: ${joined.stderr}`);
    await checkFlow(lab, { bustle, watch, what: 'by the new authorities alone' });
    checkWatch(t, watch.changes(), 'a watch since the switch');
    t.same([...bustle.faults], []);
    t.comment(`the machine has renewed ${await renewals()} times`);
  });
  await checkTraffic(t, bustle);

  await t.test('what is revoked is out within 10 s', async (t) => {
    const { ca: root } = await machinePair(lab);
    const knows = async (agent: string, address: string): Promise<boolean> =>
      (await lab.agent(agent).map('ipcache')).some(({ prefix }) => prefix === `${address}/32`);
    const check = (what: string, tookMs: number): void => {
      t.ok(tookMs < BOUND_MS, `${what}: ${tookMs} ms`);
    };

    // A peer, by the fingerprint of one of its certificates: others of it go on.
    const beta = await readCa(pkiFolder(lab.cluster('beta')));
    const pairs = [await keyPairOf(beta, 'remote-beta'), await keyPairOf(beta, 'remote')] as const;
    const watches = pairs.map((pair) => watchAs(pair, root));
    const machine = await machinePair(lab);
    const machineWatch = watchAs(machine, root);
    const open = [...watches, machineWatch];
    t.teardown(() => {
      for (const { client } of open) client[Symbol.dispose]();
    });
    await lab.waitFor('the watches to be served', () =>
      open.every(({ watch }) => watch.answers.length > 0),
    );
    let began = systemClock.monotonic();
    await writePrivateFile(revokedFile, `- fingerprint: ${fingerprintOf(pairs[0].certificate)}\n`);
    check(
      'a certificate that is revoked is cut',
      await timeUntil(lab, 'its watch to end', {
        began,
        look: () => watches[0]?.watch.error !== undefined,
      }),
    );
    await t.rejects(ask(pairs[0], root), { message: /permission denied/ });
    t.equal(watches[1]?.watch.error, undefined, 'and no other');

    // A machine: counted from when its removal is written.
    const removing = lab.administer('alpha', ['remove', 'db']);
    const [removedAt, ...moments] = await Promise.all([
      removing.then(() => systemClock.monotonic()),
      timeUntil(lab, 'its watch to end', {
        began: 0,
        look: () => machineWatch.watch.error !== undefined,
      }),
      timeUntil(lab, 'its session to end', {
        began: 0,
        look: async () => (await lab.machine('db').agent.status()).registry?.healthy === false,
      }),
      ...['alpha-1', 'beta-1'].map((name) =>
        timeUntil(lab, `${name} to know it no more`, {
          began: 0,
          look: async () => !(await knows(name, lab.machine('db').ip())),
        }),
      ),
    ]);
    t.equal((await removing).code, 0);
    const what = ['its watch', 'its session', 'its keys in alpha', 'its keys in beta'];
    for (const [index, moment] of moments.entries()) {
      const tookMs = Math.max(0, Math.round(moment - removedAt));
      check(`a machine that is removed: ${what[index]}`, tookMs);
    }
    await t.rejects(ask(machine, root), 'a machine that was removed, at the gate');

    // A peer as a whole: its authority is believed no more, and we read it no more.
    began = systemClock.monotonic();
    await rm(join(peerTrustFolder(lab.cluster('alpha')), 'beta.crt'));
    await removePeer(peersFolder(lab.node('alpha-1')), 'beta');
    const gone = await Promise.all([
      timeUntil(lab, 'the watch of the peer to end', {
        began,
        look: () => watches[1]?.watch.error !== undefined,
      }),
      timeUntil(lab, 'no caller of the peer to be left', {
        began,
        look: async () =>
          (await callersOf(lab, 'alpha')).every(({ name }) => !name.startsWith('remote')),
      }),
      timeUntil(lab, 'nothing of the peer to be left', {
        began,
        look: async () => !(await knows('alpha-1', lab.pod('friend').ip())),
      }),
    ]);
    const ofPeer = ['its watches', 'its connections', 'what was read of it'];
    for (const [index, tookMs] of gone.entries()) {
      check(`a peer that is taken away: ${ofPeer[index]}`, tookMs);
    }
    await t.rejects(ask(pairs[1], root), 'its certificate opens nothing');
  });
});
