/**
 * What the manifest for machines allows is enough, and no part of it is too much: with any one verb missing something does not
 * work, and status names the verb. A real API server judges, with the admission plugin that asks who may set finalizers.
 */
import { type Test, test } from 'tap';
import { createMachinesPart } from '../../clustermesh-apiserver/controllers/machines/machines-part.ts';
import {
  createMachineBook,
  type MachineBook,
} from '../../clustermesh-apiserver/registry/machine-book.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { needKube } from '../peers/kube-programs.ts';
import type { KubeRule, KubeUser } from '../peers/kube-user.ts';
import { openPermissionRig, type PermissionRig } from './permission-rig.ts';
import { refusalOf, rulesOf, usesOf, without } from './permission-rules.ts';

const kube = needKube(process.env);
const MACHINES = 'meshmachines.isthmus.io';
const STATUS = 'meshmachines/status.isthmus.io';
const DEFINITIONS = 'customresourcedefinitions.apiextensions.k8s.io';
const DEFINITION = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${MACHINES}`;
const OBJECTS = '/apis/isthmus.io/v1alpha1/namespaces/default/meshmachines';
const logger = createLogger('permissions', { level: 'silent' });

/** What has to be done for a permission to be missed. */
type Trigger =
  /** The definition is not there yet. */
  | 'install'
  /** One that is older is. */
  | 'replace'
  /** A replica begins. */
  | 'start'
  | 'enrol'
  | 'remove';

/** Every use that the file allows, but for what many controllers need. Resources are named as in RBAC. */
const ROWS: readonly (readonly [use: string, trigger: Trigger])[] = [
  [`create ${DEFINITIONS}`, 'install'],
  [`get ${DEFINITIONS}`, 'install'],
  [`patch ${DEFINITIONS}`, 'replace'],
  [`list ${MACHINES}`, 'start'],
  [`watch ${MACHINES}`, 'start'],
  [`get ${MACHINES}`, 'enrol'],
  [`create ${MACHINES}`, 'enrol'],
  [`patch ${MACHINES}`, 'enrol'],
  [`patch ${STATUS}`, 'enrol'],
  [`delete ${MACHINES}`, 'remove'],
];

interface Rig extends PermissionRig {
  readonly cluster: KubeCluster;
  readonly machines: MachineBook;
  readonly all: readonly KubeRule[];
}

test('the manifest for machines allows what is used, and nothing else', {
  skip: kube.skip,
  timeout: 120_000,
}, async (t) => {
  const cluster = await openKubeCluster({
    name: 'machine-permissions',
    programs: kube.programs,
    apiserverArgs: ['--enable-admission-plugins=OwnerReferencesPermissionEnforcement'],
  });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  const own = await rulesOf('rbac-machines.yaml');
  const others = await Promise.all(['rbac-any-cni.yaml', 'rbac-controllers.yaml'].map(rulesOf));
  t.same(usesOf(own).sort(), ROWS.map(([use]) => use).sort(), 'there is a row for each');
  const all = [...others.flat(), ...own];
  const user = await cluster.addUser('clustermesh-apiserver', { rules: all });
  const rig = await openRig(t, { cluster, user, all });
  for (const [index, row] of ROWS.entries()) await isMissed(rig, t, { row, index });
});

/** Takes one use away, does what needs it, and gives it back. */
async function isMissed(
  { cluster, machines, all, allow, start }: Rig,
  t: Test,
  { row: [use, trigger], index }: { row: (typeof ROWS)[number]; index: number },
): Promise<void> {
  const name = `vm-${index}`;
  if (trigger === 'remove') await enrol(machines, name);
  if (trigger === 'replace') {
    const metadata = { labels: { 'isthmus.io/crd-schema-revision': '0' } };
    const contentType = 'application/merge-patch+json';
    await cluster.ask('PATCH', DEFINITION, { body: { metadata }, contentType });
  }
  if (trigger === 'remove') await allow(all);
  else await allow(without(all, (one) => one === use));
  await using replica = await start();
  if (trigger === 'enrol') await enrol(machines, name);
  if (trigger === 'remove') {
    await waitFor('its object', () => isShown(cluster, name));
    await allow(without(all, (one) => one === use));
    await machines.remove(name, new AbortController().signal);
  }
  const text = refusalOf(use);
  await waitFor(use, () => text.test(replica.status())).catch(() => undefined);
  t.match(replica.status(), text, use);
  await allow(all);
  await waitFor(`the end of ${use}`, () => !text.test(replica.status()));
  if (trigger === 'enrol') await waitFor('its object', () => isShown(cluster, name));
  if (trigger === 'remove') {
    await waitFor('its end', async () => !(await isShown(cluster, name)));
  }
}

/** Whether a machine has an object whose status is written. */
async function isShown(cluster: KubeCluster, name: string): Promise<boolean> {
  const { status, body } = await cluster.send('GET', `${OBJECTS}/${name}`);
  return status === 200 && (body as { readonly status?: object }).status !== undefined;
}

async function enrol(machines: MachineBook, name: string): Promise<void> {
  const outcome = await machines.enrol(
    {
      name,
      namespace: 'default',
      labels: {},
      addressRanges: [],
      addresses: ['192.0.2.10'],
      key: { hash: `key-of-${name}`, expiresAt: Date.now() + 3_600_000 },
      tokenId: 't1',
      agentVersion: 'test',
    },
    new AbortController().signal,
  );
  if (outcome.kind !== 'taken') throw new Error(outcome.reason);
}

async function openRig(
  t: Test,
  given: { readonly cluster: KubeCluster; readonly user: KubeUser; readonly all: Rig['all'] },
): Promise<Rig> {
  const { cluster, user, all } = given;
  const store = createMemoryStore();
  t.teardown(() => store[Symbol.asyncDispose]());
  const machines = createMachineBook({
    store,
    publish: () => undefined,
    findConflict: () => undefined,
    ownAddresses: () => [],
    checksOf: () => [],
    graceMs: 1000,
    clock: systemClock,
    logger,
  });
  await machines.load(new AbortController().signal);
  const rig = await openPermissionRig(t, {
    cluster,
    user,
    parts: () => [
      (context) =>
        createMachinesPart(context, {
          installCrds: true,
          machines: () => machines,
          labelled: new Set(),
          beginAfterMs: 0,
          settleMs: 0,
        }),
    ],
  });
  return { cluster, machines, all, ...rig };
}
