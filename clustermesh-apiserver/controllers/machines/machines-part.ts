/**
 * The part of the controllers that shows machines as MeshMachine objects, and does what people do to these: labels of `spec` are
 * given to the machine, a deleted object takes its machine out of the cluster. What is kept of machines is in etcd; an object lets
 * nobody in. One reconcile is about one `namespace/name`.
 */
import { readDefinition } from '../../kubernetes/definition-guard.ts';
import { RESOURCES } from '../../kubernetes/resource.ts';
import { findBadLabel } from '../../registry/granted-labels.ts';
import type { MachineBook, MachineReport } from '../../registry/machine-book.ts';
import { type Controller, createController, type ReconcileResult } from '../controller.ts';
import type { ControllerContext, ControllerPart } from '../controller-part.ts';
import { createDefinitionInstaller, isNewerRevision } from '../definitions.ts';
import { eventTargetOf } from '../events.ts';
import {
  type KubernetesObject,
  objectKey,
  parseKubernetesObject,
  splitObjectKey,
} from '../kubernetes-object.ts';
import { createObjectView, problemsOfViews } from '../object-view.ts';
import { createWorkQueue } from '../work-queue.ts';
import { type KnownMachine, type LabelsOutcome, machineStatus } from './machine-status.ts';
import { FINALIZER, MADE_HERE, type MeshMachine, readMeshMachine } from './mesh-machine.ts';

/** Where the definition is, in the project. */
export const MESH_MACHINE_DEFINITION =
  'clustermesh-apiserver/kubernetes/manifests/meshmachine-crd.yaml';

/** Who begins to lead waits for machines that come from another registry, and for what that one said. */
const DEFAULT_BEGIN_AFTER_MS = 5_000;
/** What a machine says when it comes is written together. */
const DEFAULT_SETTLE_MS = 500;
/** What was written is not in the view yet, or somebody else writes. */
const OUTDATED: ReconcileResult = { againAfterMs: 250, backsOff: true };
const NO_DEFINITION: ReconcileResult = { againAfterMs: 2_000, backsOff: true };
const WAIT_STEP_MS = 100;
const PER_SECOND = 20;
const BURST = 200;
const RESOURCE = RESOURCES.meshMachines;

/** What is needed of the registry's book. */
export type ShownMachines = Pick<MachineBook, 'get' | 'report' | 'label' | 'remove' | 'onChange'>;

/** How machines are shown. */
export interface MachinesPartOptions {
  /** Whether the definition is installed where it is missing or older (`--mesh-machines-install-crds`). */
  readonly installCrds: boolean;
  /** The machines; undefined until all that is kept of them was read. */
  readonly machines: () => ShownMachines | undefined;
  /** Is kept: `namespace/name` of the objects that say which labels their machine has, on standby too. */
  readonly labelled: Set<string>;
  /** Default 5,000. */
  readonly beginAfterMs?: number;
  /** Default 500. */
  readonly settleMs?: number;
}

/** Makes the part. */
export function createMachinesPart(
  context: ControllerContext,
  options: MachinesPartOptions,
): ControllerPart {
  const { api, applier, clock, events } = context;
  const { labelled, settleMs = DEFAULT_SETTLE_MS } = options;
  const logger = context.logger.child({ part: 'machines' });
  const view = createObjectView(api, RESOURCE, {
    parse: parseKubernetesObject,
    indexes: { name: ({ name }: KubernetesObject) => [name] },
    clock,
    logger,
  });
  const installer = createDefinitionInstaller({
    manifest: MESH_MACHINE_DEFINITION,
    isNewer: isNewerRevision,
    applier,
    clock,
    logger,
  });
  const queue = createWorkQueue({ clock, perSecond: PER_SECOND, burst: BURST });
  let book: ShownMachines | undefined;
  let controller: Controller | undefined;

  view.onChange(({ key, after }) => {
    const asks = after !== undefined && readMeshMachine(after).labels !== undefined;
    if (asks && !after.isLeaving) labelled.add(key);
    else labelled.delete(key);
    void queue.add(key);
  });
  const keyOf = ({ record }: MachineReport): string => objectKey(record.namespace, record.name);
  /** All objects of that name are told apart by whose the name is. */
  const addMachine = (name: string): void => {
    const report = book?.get(name);
    const keys = view.by('name', name).map(({ key }) => key);
    if (report !== undefined) keys.push(keyOf(report));
    for (const key of new Set(keys)) void queue.addAfter(key, settleMs);
  };
  const isOurs = (): boolean => true;

  const knownOf = (key: string): MachineReport | 'elsewhere' | undefined => {
    const report = book?.get(splitObjectKey(key).name);
    if (report === undefined || keyOf(report) === key) return report;
    return report.state === 'removed' ? undefined : 'elsewhere';
  };
  const create = async (
    { record }: MachineReport,
    signal: AbortSignal,
  ): Promise<ReconcileResult | undefined> => {
    const { name, namespace } = record;
    // While a definition goes nothing can be made of it: it is waited for.
    const definition = await readDefinition(api, RESOURCE, signal);
    if (definition.kind === 'deleting' || definition.kind === 'missing') return NO_DEFINITION;
    const metadata = { name, namespace, labels: MADE_HERE, finalizers: [FINALIZER] };
    const how = { resource: RESOURCE, observed: undefined, isOurs, signal };
    const result = await applier.apply({ metadata, spec: {} }, how);
    if (result.kind === 'written') logger.info({ machine: name, namespace }, 'machine is shown');
    return result.kind === 'written' ? undefined : OUTDATED;
  };
  const setFinalizer = async (
    { object, finalizers }: MeshMachine,
    { isHeld, signal }: { readonly isHeld: boolean; readonly signal: AbortSignal },
  ): Promise<ReconcileResult | undefined> => {
    const others = finalizers.filter((one) => one !== FINALIZER);
    const wanted = isHeld ? [...others, FINALIZER] : others;
    if (wanted.length === finalizers.length) return undefined;
    const metadata = { finalizers: wanted };
    const how = { resource: RESOURCE, isOurs, signal };
    const result = await applier.replace(object, { metadata }, how);
    return result.kind === 'written' ? undefined : OUTDATED;
  };
  /** An object is being deleted: its machine is removed first, unless the whole definition goes. */
  const release = async (
    machine: MeshMachine,
    known: ReturnType<typeof knownOf>,
    signal: AbortSignal,
  ): Promise<ReconcileResult | undefined> => {
    if (!machine.finalizers.includes(FINALIZER)) return undefined;
    if (typeof known === 'object' && known.state !== 'removed') {
      const definition = await readDefinition(api, RESOURCE, signal);
      if (definition.kind === 'standing' || definition.kind === 'unknown') {
        const { name } = known.record;
        await book?.remove(name, signal);
        logger.info({ machine: name, by: 'its MeshMachine was deleted' }, 'a machine was removed');
      }
    }
    return setFinalizer(machine, { isHeld: false, signal });
  };
  const applyLabels = async (
    { object, labels }: MeshMachine,
    { record }: MachineReport,
    signal: AbortSignal,
  ): Promise<LabelsOutcome> => {
    if (labels === undefined) return { kind: 'not-asked' };
    const reason = findBadLabel(labels);
    if (reason !== undefined) return { kind: 'refused', reason };
    const { name } = record;
    const remove = Object.keys(record.labels).filter((key) => !(key in labels));
    const isSame =
      remove.length === 0 &&
      Object.entries(labels).every(([key, value]) => record.labels[key] === value);
    if (isSame) return { kind: 'applied' };
    const outcome = await book?.label(name, { set: labels, remove }, signal);
    if (outcome?.kind !== 'taken') return { kind: 'refused', reason: outcome?.reason ?? '' };
    logger.info(
      { machine: name, set: labels, remove },
      'a machine was labelled by its MeshMachine',
    );
    events.record({
      about: eventTargetOf(RESOURCE, object),
      type: 'Normal',
      reason: 'Labelled',
      action: 'LabelMachine',
      note: 'the labels of spec are those of the machine now',
    });
    return { kind: 'applied' };
  };
  const writeStatus = async (
    machine: MeshMachine,
    known: KnownMachine,
    signal: AbortSignal,
  ): Promise<ReconcileResult | undefined> => {
    const { name, namespace } = machine.object;
    const status = machineStatus(machine, known, { now: clock.now() });
    const result = await applier.apply(
      { metadata: { name, namespace }, status },
      {
        resource: RESOURCE,
        subresource: 'status',
        observed: machine.object,
        isOurs,
        force: true,
        signal,
      },
    );
    return result.kind === 'written' || result.kind === 'unchanged' ? undefined : OUTDATED;
  };

  const reconcile = async (
    key: string,
    signal: AbortSignal,
  ): Promise<ReconcileResult | undefined> => {
    const object = view.get(key);
    const known = knownOf(key);
    const report = typeof known === 'object' ? known : undefined;
    const isMember = report !== undefined && report.state !== 'removed';
    if (object === undefined) return isMember ? create(report, signal) : undefined;
    const machine = readMeshMachine(object);
    if (object.isLeaving) return release(machine, known, signal);
    // Removed by the command line: what was made for it goes with it.
    const isOver = report?.state === 'removed' && machine.isOurs;
    const isHeld = machine.finalizers.includes(FINALIZER);
    if (isHeld !== isMember) {
      // What is written comes back by the view, and is looked at again then.
      return setFinalizer(machine, { isHeld: isMember, signal });
    }
    if (isOver) {
      const isGone = await applier.remove(object, { resource: RESOURCE, isOurs, signal });
      return isGone ? undefined : OUTDATED;
    }
    if (report === undefined) {
      const kind = known === 'elsewhere' ? 'elsewhere' : 'unknown';
      return writeStatus(machine, { kind }, signal);
    }
    const labels: LabelsOutcome = isMember
      ? await applyLabels(machine, report, signal)
      : { kind: 'not-asked' };
    const after = book?.get(report.record.name) ?? report;
    return writeStatus(machine, { kind: 'known', report: after, labels }, signal);
  };
  const untilLoaded = async (signal: AbortSignal): Promise<void> => {
    while (book === undefined) {
      book = options.machines();
      if (book === undefined) await clock.sleep(WAIT_STEP_MS, signal);
      else book.onChange(addMachine);
    }
  };
  const allKeys = function* (): Generator<string> {
    yield* view.keys();
    for (const report of book?.report ?? []) if (report.state !== 'removed') yield keyOf(report);
  };

  return {
    name: 'machines',
    follow: (signal) => view.follow(signal),
    async lead({ over }) {
      const installing = options.installCrds ? installer.run(over) : Promise.resolve();
      try {
        await untilLoaded(over);
        await clock.sleep(options.beginAfterMs ?? DEFAULT_BEGIN_AFTER_MS, over);
        await view.synced(over);
        controller ??= createController({
          name: 'machines',
          queue,
          reconcile,
          workers: 4,
          allKeys,
          clock,
          logger,
        });
        await controller.run(over);
      } catch (error) {
        if (!over.aborted) throw error;
      } finally {
        await installing;
      }
    },
    get status() {
      return {
        waitingFor: [
          ...(view.isSynced
            ? []
            : [`${RESOURCE.plural} (${view.status?.reason || 'being listed'})`]),
          ...(book === undefined ? ['what is kept of machines'] : []),
        ],
        problems: [
          ...(installer.problem === undefined ? [] : [installer.problem]),
          ...problemsOfViews([view]),
        ],
        controllers: controller === undefined ? [] : [controller.status()],
      };
    },
  };
}
