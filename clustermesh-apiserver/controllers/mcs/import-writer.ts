/** Writes a ServiceImport and its status. */
import { RESOURCES } from '../../kubernetes/resource.ts';
import { eventTargetOf } from '../events.ts';
import type { KubernetesObject } from '../kubernetes-object.ts';
import { sameConditions, storeConditions } from './condition.ts';
import { readImport, readService } from './mcs-objects.ts';
import type { MergedExports } from './merge-exports.ts';
import type { ImportPlan } from './plan.ts';
import { AGAIN_SOON_MS, type ReconcileScope } from './reconcile-scope.ts';
import {
  desiredImport,
  desiredImportStatus,
  type ImportVerdict,
  importConditions,
  syncsSlices,
} from './service-import.ts';

/** Makes the import so. Returns it as it is now, undefined when it was not as it was seen. */
export async function applyImport(
  input: {
    readonly plan: Extract<ImportPlan, { kind: 'apply' }>;
    readonly derived: KubernetesObject | undefined;
    readonly current: KubernetesObject | undefined;
  },
  scope: ReconcileScope,
): Promise<KubernetesObject | undefined> {
  const { context, namespace, name, served, signal } = scope;
  const { merged, families } = input.plan;
  const resource = { ...RESOURCES.serviceImports, version: served().version };
  const derived = input.derived === undefined ? undefined : readService(input.derived);
  const result = await context.applier.apply(
    desiredImport({ namespace, name, merged, families, derived, served: served() }),
    { resource, observed: input.current, isOurs: () => true, force: true, signal },
  );
  if (result.kind === 'unchanged') return result.object;
  if (result.kind !== 'written') {
    scope.again(AGAIN_SOON_MS);
    return undefined;
  }
  if (merged.refused.length > 0) {
    context.events.record({
      about: eventTargetOf(resource, result.object),
      type: 'Warning',
      reason: 'ValueRefused',
      action: 'ImportService',
      note: `left out, since Kubernetes would refuse it: ${merged.refused.join('; ')}`,
    });
  }
  return result.object;
}

/** Makes the status so, and tells of an import that cannot be used. */
export async function applyImportStatus(
  input: {
    readonly merged: MergedExports;
    readonly verdict: ImportVerdict;
    readonly current: KubernetesObject;
  },
  scope: ReconcileScope,
): Promise<void> {
  const { context, served, syncSlices, slicesAreSynced, signal } = scope;
  const { merged, current } = input;
  const { namespace, name } = current;
  const resource = { ...RESOURCES.serviceImports, version: served().version };
  const { conditions: before, generation } = readImport(current);
  const wanted = importConditions(input.verdict);
  const stored = storeConditions(wanted, { before, generation, now: context.clock.now() });
  const conditions = sameConditions(stored, before) ? before : stored;
  const sliceObjects = slicesAreSynced && syncsSlices(merged, syncSlices);
  const status = desiredImportStatus(merged, { conditions, sliceObjects, served: served() });
  const result = await context.applier.apply(
    { metadata: { namespace, name }, status },
    {
      resource,
      subresource: 'status',
      observed: current,
      isOurs: () => true,
      force: true,
      signal,
    },
  );
  if (result.kind === 'unchanged') return;
  if (result.kind !== 'written') {
    scope.again(AGAIN_SOON_MS);
    return;
  }
  const [ready] = wanted;
  const old = before.find(({ type }) => type === 'Ready');
  if (ready === undefined || old?.reason === ready.reason || input.verdict.kind === 'pending') {
    return;
  }
  context.events.record({
    about: eventTargetOf(resource, current),
    type: ready.status === 'True' ? 'Normal' : 'Warning',
    reason: ready.reason,
    action: 'ImportService',
    note: ready.message,
  });
}
