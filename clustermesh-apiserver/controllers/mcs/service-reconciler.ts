/** Makes everything of one multi-cluster service as it should be: reads what is known, has it planned, and writes. */
import type { ClusterName } from '../../../mesh/wire/ids.ts';
import { readGlobalNamespace } from '../../convert/annotations.ts';
import { RESOURCES } from '../../kubernetes/resource.ts';
import { ObjectError } from '../../sources/object-error.ts';
import type { ReconcileResult } from '../controller.ts';
import type { ControllerContext } from '../controller-part.ts';
import { type KubernetesObject, splitObjectKey } from '../kubernetes-object.ts';
import { derivedServiceName } from './derived-name.ts';
import { applyDerivedService, removeDerivedService } from './derived-writer.ts';
import { applyExportStatus } from './export-writer.ts';
import { applyImport, applyImportStatus } from './import-writer.ts';
import { type IpFamily, isIpFamily } from './ip-families.ts';
import { SUPPORTED_IP_FAMILIES_ANNOTATION } from './mcs-names.ts';
import { type McsService, readExport, readImport, readService } from './mcs-objects.ts';
import { type ImportPlan, planService, type ServicePlan } from './plan.ts';
import { AGAIN_SOON_MS, type ReconcilerOptions, type ReconcileScope } from './reconcile-scope.ts';
import type { ImportVerdict } from './service-import.ts';
import { writeMirroredSlices } from './slice-writer.ts';

/** Reconciles one key, `namespace/name` of a multi-cluster service. */
export async function reconcileService(
  key: string,
  options: ReconcilerOptions & { readonly signal: AbortSignal },
): Promise<ReconcileResult | undefined> {
  const { namespace, name } = splitObjectKey(key);
  const { context, views } = options;
  const where = context.views.namespaces.get(namespace);
  // What is in a namespace goes with it, and nothing can be written into one that does not exist.
  if (where === undefined || where.isLeaving) {
    options.onHold(key, []);
    return undefined;
  }
  let againAfterMs: number | undefined;
  const scope: ReconcileScope = {
    ...options,
    namespace,
    name,
    again: (milliseconds) => {
      againAfterMs = Math.min(againAfterMs ?? milliseconds, milliseconds);
    },
  };
  const { global } = readGlobalNamespace(where.annotations, context.namespacesAreGlobal);
  const current = views.imports.get(key);
  const exported = views.exports.get(key);
  const service = ownService(context.views.services.get(key));
  const remote = context.remote.exports(key);
  const needsFamilies = exported !== undefined || remote.size > 0;
  const plan = planService({
    cluster: context.cluster.name,
    isNamespaceGlobal: global,
    exported: exported === undefined ? undefined : readExport(exported),
    service,
    remote,
    unread: unreadPeers(context),
    current: current === undefined ? undefined : readImport(current),
    localFamilies: needsFamilies ? await options.localFamilies.of(namespace, options.signal) : [],
  });
  options.onHold(key, plan.import.kind === 'hold' ? plan.import.peers : []);
  if (plan.verdict !== undefined && exported !== undefined) {
    await applyExportStatus(readExport(exported), plan.verdict, scope);
  }
  const derived = await makeImport(plan.import, { scope, current, isNamespaceGlobal: global });
  await writeMirroredSlices(mirrorOf(plan, { service, derived }), scope);
  return againAfterMs === undefined ? undefined : { againAfterMs };
}

/** The own Service, or why it cannot be used. */
function ownService(object: KubernetesObject | undefined): McsService | string | undefined {
  if (object === undefined) return undefined;
  try {
    return readService(object);
  } catch (error) {
    if (error instanceof ObjectError) return error.message;
    throw error;
  }
}

/** Configured peers of whose exports not all were read; a peer without exports has none to be read. */
function unreadPeers({ remote }: ControllerContext): readonly ClusterName[] | undefined {
  return remote.names === undefined
    ? undefined
    : [...remote.names].filter(
        (name) => !remote.isSynced(name, 'serviceexports') && remote.exportsEnabled(name) !== false,
      );
}

/** Makes the import and its derived Service so; returns the latter if it is to have this cluster's endpoints. */
async function makeImport(
  plan: ImportPlan,
  options: {
    readonly scope: ReconcileScope;
    readonly current: KubernetesObject | undefined;
    readonly isNamespaceGlobal: boolean;
  },
): Promise<KubernetesObject | undefined> {
  const { scope, current, isNamespaceGlobal } = options;
  const { context, namespace, name } = scope;
  const key = `${namespace}/${derivedServiceName(namespace, name)}`;
  const derived = context.views.services.get(key);
  switch (plan.kind) {
    case 'hold':
      return derived;
    case 'none':
      await removeDerivedService(derived, scope);
      return undefined;
    case 'delete': {
      await removeDerivedService(derived, scope);
      await removeImport(current, scope);
      return undefined;
    }
    case 'apply': {
      const { merged, families } = plan;
      const owner = current ?? (await applyImport({ plan, derived: undefined, current }, scope));
      if (owner === undefined) return undefined;
      let made: { derived: KubernetesObject | undefined; verdict: ImportVerdict };
      if (!plan.isUsable) {
        await removeDerivedService(derived, scope);
        const verdict: ImportVerdict = isNamespaceGlobal
          ? { kind: 'no-family', exported: merged.ipFamilies ?? [] }
          : { kind: 'namespace-not-global' };
        made = { derived: undefined, verdict };
      } else made = await applyDerivedService({ merged, families, owner, derived }, scope);
      const written = await applyImport({ plan, derived: made.derived, current: owner }, scope);
      if (written !== undefined) {
        await applyImportStatus({ merged, verdict: made.verdict, current: written }, scope);
      }
      return made.derived;
    }
    default:
      plan satisfies never;
      return undefined;
  }
}

async function removeImport(
  current: KubernetesObject | undefined,
  { context, served, again, signal }: ReconcileScope,
): Promise<void> {
  if (current === undefined) return;
  const isGone = await context.applier.remove(current, {
    resource: { ...RESOURCES.serviceImports, version: served().version },
    isOurs: () => true,
    signal,
  });
  if (!isGone) again(AGAIN_SOON_MS);
}

/** What is to be mirrored; undefined: nothing, and what was is to go. */
function mirrorOf(
  plan: ServicePlan,
  {
    service,
    derived,
  }: { service: McsService | string | undefined; derived: KubernetesObject | undefined },
): { service: McsService; derived: McsService; families: readonly IpFamily[] } | undefined {
  if (!plan.isExported || derived === undefined) return undefined;
  if (service === undefined || typeof service === 'string') return undefined;
  const said = (derived.annotations[SUPPORTED_IP_FAMILIES_ANNOTATION] ?? '').split(',');
  const families = plan.import.kind === 'apply' ? plan.import.families : said.filter(isIpFamily);
  return { service, derived: readService(derived), families };
}
