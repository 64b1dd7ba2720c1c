/** Writes the derived Service of an import. */
import { KubernetesError } from '../../kubernetes/kubernetes-error.ts';
import { apiVersionOf, RESOURCES } from '../../kubernetes/resource.ts';
import type { ApplyResult } from '../apply.ts';
import type { KubernetesObject } from '../kubernetes-object.ts';
import { desiredDerivedService, isDerivedService } from './derived-service.ts';
import type { IpFamily } from './ip-families.ts';
import { readService } from './mcs-objects.ts';
import type { MergedExports } from './merge-exports.ts';
import { isSamePort } from './merge-ports.ts';
import { AGAIN_SOON_MS, type ReconcileScope } from './reconcile-scope.ts';
import type { ImportVerdict } from './service-import.ts';

/** What the API server refuses today it may take after a change of ours or its own. */
const REFUSED_AGAIN_MS = 60_000;

/** What a derived Service is written from. */
export interface DerivedInput {
  readonly merged: MergedExports;
  readonly families: readonly IpFamily[];
  /** The import. */
  readonly owner: KubernetesObject;
  /** As it was seen last. */
  readonly derived: KubernetesObject | undefined;
}

/** Makes the derived Service so. One that changes between headless and not is deleted first: that field cannot change. */
export async function applyDerivedService(
  input: DerivedInput,
  scope: ReconcileScope,
): Promise<{ readonly derived: KubernetesObject | undefined; readonly verdict: ImportVerdict }> {
  const { derived } = input;
  const pending = { derived: undefined, verdict: { kind: 'pending' as const } };
  if (derived !== undefined) {
    if (derived.isLeaving) return pending;
    const isOther = readService(derived).service.headless !== (input.merged.type === 'Headless');
    if (isOther && isDerivedService(derived, scope.name)) {
      await removeDerivedService(derived, scope);
      scope.again(AGAIN_SOON_MS);
      return pending;
    }
  }
  const applied = await applyOrPlain(input, scope);
  switch (applied.kind) {
    case 'unchanged':
    case 'written':
      return { derived: applied.object, verdict: { kind: 'ready' } };
    case 'foreign':
      return {
        derived: undefined,
        verdict: { kind: 'name-taken', service: derived?.key ?? applied.message },
      };
    case 'refused':
      scope.again(REFUSED_AGAIN_MS);
      // What stands there still serves the ports it has.
      return { derived, verdict: { kind: 'refused', message: applied.message } };
    case 'conflict':
    case 'outdated':
      scope.again(AGAIN_SOON_MS);
      return derived === undefined ? pending : { derived, verdict: { kind: 'ready' } };
    default:
      applied satisfies never;
      return pending;
  }
}

/** Deletes a derived Service, if there is one and it is ours. */
export async function removeDerivedService(
  derived: KubernetesObject | undefined,
  { context, name, again, signal }: ReconcileScope,
): Promise<void> {
  if (derived === undefined || derived.isLeaving || !isDerivedService(derived, name)) return;
  const isGone = await context.applier.remove(derived, {
    resource: RESOURCES.services,
    isOurs: (object) => isDerivedService(object, name),
    signal,
  });
  if (!isGone) again(AGAIN_SOON_MS);
}

/** Applies it; where the API server refuses it, once more without what older ones do not know. */
async function applyOrPlain(
  { merged, families, owner, derived: seen }: DerivedInput,
  scope: ReconcileScope,
): Promise<ApplyResult | { readonly kind: 'refused'; readonly message: string }> {
  const { context, name, served, syncSlices, signal } = scope;
  const cleaned = await withoutAdditions(seen, merged, scope);
  if (cleaned !== undefined && cleaned.kind !== 'written') return cleaned;
  const derived = cleaned?.object ?? seen;
  const apiVersion = apiVersionOf({ ...RESOURCES.serviceImports, version: served().version });
  const attempt = (plain: boolean) =>
    context.applier.apply(
      desiredDerivedService({
        merged,
        families,
        owner: { apiVersion, object: owner },
        syncSlices,
        plain,
      }),
      {
        resource: RESOURCES.services,
        observed: derived,
        isOurs: (object) => isDerivedService(object, name),
        force: true,
        signal,
      },
    );
  try {
    return await attempt(false);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    try {
      return await attempt(true);
    } catch (plainError) {
      if (!isRefusal(plainError)) throw plainError;
      return { kind: 'refused', message: plainError.message };
    }
  }
}

/**
 * Takes away what somebody has added to the ports, or a selector: applying leaves what it did not set, and two ports of one name
 * would be refused. Undefined: there was nothing to do.
 */
async function withoutAdditions(
  derived: KubernetesObject | undefined,
  merged: MergedExports,
  { context, name, signal }: ReconcileScope,
): Promise<ApplyResult | undefined> {
  if (derived === undefined || !isDerivedService(derived, name)) return undefined;
  const { ports, selector } = readService(derived).service;
  const hasMore = ports.some(
    (port) => !merged.ports.some((wanted) => isSamePort(port, wanted) && port.name === wanted.name),
  );
  if (!hasMore && Object.keys(selector).length === 0) return undefined;
  const wanted = merged.ports.map(({ name: portName, protocol, port }) => ({
    ...(portName === '' ? {} : { name: portName }),
    protocol,
    port,
  }));
  return context.applier.replace(
    derived,
    { spec: { ports: wanted, selector: null } },
    {
      resource: RESOURCES.services,
      isOurs: (object) => isDerivedService(object, name),
      signal,
    },
  );
}

function isRefusal(error: unknown): error is KubernetesError {
  return error instanceof KubernetesError && error.code === 'invalid';
}
