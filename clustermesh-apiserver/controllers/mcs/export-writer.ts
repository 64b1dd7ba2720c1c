/** Writes the status of a ServiceExport, and tells its people of what changed. */
import { RESOURCES } from '../../kubernetes/resource.ts';
import { eventTargetOf } from '../events.ts';
import {
  type Condition,
  type StoredCondition,
  sameConditions,
  storeConditions,
} from './condition.ts';
import { type ExportVerdict, exportConditions } from './export-conditions.ts';
import type { ExportObject } from './mcs-objects.ts';
import { AGAIN_SOON_MS, type ReconcileScope } from './reconcile-scope.ts';

/** Makes the status say how the export stands. */
export async function applyExportStatus(
  exported: ExportObject,
  verdict: ExportVerdict,
  { context, served, again, signal }: ReconcileScope,
): Promise<void> {
  const { object, generation, conditions: before } = exported;
  const now = context.clock.now();
  const wanted = exportConditions(verdict);
  const conditions = storeConditions(wanted, { before, generation, now });
  if (sameConditions(conditions, before)) return;
  const resource = { ...RESOURCES.serviceExports, version: served().version };
  const result = await context.applier.apply(
    { metadata: { namespace: object.namespace, name: object.name }, status: { conditions } },
    { resource, subresource: 'status', observed: object, isOurs: () => true, force: true, signal },
  );
  if (result.kind !== 'written') {
    if (result.kind !== 'unchanged') again(AGAIN_SOON_MS);
    return;
  }
  for (const { type, reason, note } of newsOf(wanted, before)) {
    const about = eventTargetOf(resource, object);
    context.events.record({ about, type, reason, action: 'ExportService', note });
  }
}

/** Something to tell about an export. */
export interface ExportNews {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly note: string;
}

/** What is worth an Event: an export that began or ended, a conflict that came, changed or went. */
export function newsOf(
  wanted: readonly Condition[],
  before: readonly StoredCondition[],
): readonly ExportNews[] {
  return wanted.flatMap(({ type, status, reason, message: note }): ExportNews[] => {
    const old = before.find((condition) => condition.type === type);
    if (type === 'Valid') {
      if (old?.status === status && old.reason === reason) return [];
      return status === 'True'
        ? [{ type: 'Normal', reason: 'Exported', note: 'the Service is exported' }]
        : [{ type: 'Warning', reason, note }];
    }
    if (type !== 'Conflict' || old?.message === note) return [];
    if (status === 'True') return [{ type: 'Warning', reason, note }];
    return old?.status === 'True' && status === 'False' ? [{ type: 'Normal', reason, note }] : [];
  });
}
