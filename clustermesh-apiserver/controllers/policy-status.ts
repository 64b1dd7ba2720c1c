/**
 * How policies stand on the nodes, written to where their authors look: conditions of CiliumNetworkPolicies and
 * CiliumClusterwideNetworkPolicies, and Events about NetworkPolicies, which have no status. For clusters that Cilium does not
 * run: its operator writes the condition `Valid` of its own.
 */
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import { type KubernetesResource, RESOURCES, resourcePath } from '../kubernetes/resource.ts';
import type { PolicyBoard } from '../registry/policy-board.ts';
import type { PolicyStanding } from '../registry/policy-report.ts';
import { createController, type ReconcileResult } from './controller.ts';
import type { ControllerContext, ControllerPart } from './controller-part.ts';
import { eventTargetOf } from './events.ts';
import {
  type KubernetesObject,
  parseKubernetesObject,
  recordOf,
  splitObjectKey,
} from './kubernetes-object.ts';
import { createObjectView, type ObjectView, problemsOfViews } from './object-view.ts';
import {
  changeOfConditions,
  conditionsToStore,
  policyConditions,
  readPolicyConditions,
} from './policy-conditions.ts';
import { createWorkQueue } from './work-queue.ts';

/** Who begins to lead waits for nodes that come from another registry, and for the end of what that one said. */
const DEFAULT_BEGIN_AFTER_MS = 15_000;
/** What nodes say comes in within a few seconds: it is written together. */
const DEFAULT_SETTLE_MS = 3_000;
/** Counts alone are written this often for one policy. */
const DEFAULT_COUNTS_EVERY_MS = 60_000;
/** What was written is not in the view yet, or somebody else writes. */
const OUTDATED: ReconcileResult = { againAfterMs: 250, backsOff: true };
/** Writes each second, after a burst. */
const PER_SECOND = 20;
const BURST = 100;

const NETWORK_POLICY = 'NetworkPolicy';

/** How eagerly it is written, in milliseconds. */
export interface PolicyStatusOptions {
  readonly board: Pick<PolicyBoard, 'get' | 'policies' | 'onChange'>;
  /** Default 15,000. */
  readonly beginAfterMs?: number;
  /** Default 3,000. */
  readonly settleMs?: number;
  /** Default 60,000. */
  readonly countsEveryMs?: number;
}

/** Makes the part. */
export function createPolicyStatus(
  context: ControllerContext,
  options: PolicyStatusOptions,
): ControllerPart {
  const { api, applier, clock, events } = context;
  const { board, settleMs = DEFAULT_SETTLE_MS } = options;
  const { beginAfterMs = DEFAULT_BEGIN_AFTER_MS } = options;
  const { countsEveryMs = DEFAULT_COUNTS_EVERY_MS } = options;
  const logger = context.logger.child({ part: 'policy-status' });
  const views = [RESOURCES.ciliumNetworkPolicies, RESOURCES.ciliumClusterwideNetworkPolicies].map(
    (resource): ObjectView<KubernetesObject> =>
      createObjectView(api, resource, {
        parse: parseWithoutSpec,
        mayBeAbsent: true,
        clock,
        logger,
      }),
  );
  const queue = createWorkQueue({ clock, perSecond: PER_SECOND, burst: BURST });
  /** When counts of a policy were written, monotonic. */
  const countedAt = new Map<string, number>();
  /** What was told about a NetworkPolicy last. */
  const told = new Map<string, string>();

  const writeConditions = async (
    standing: PolicyStanding,
    { view, key }: { view: ObjectView<KubernetesObject>; key: string },
    signal: AbortSignal,
  ): Promise<ReconcileResult | undefined> => {
    const { policy } = standing;
    const object = view.get(key);
    if (object === undefined || object.isLeaving) return undefined;
    // Nodes, or we, are behind: whoever comes later calls again.
    if (generationOf(object) !== standing.generation) return undefined;
    const before = readPolicyConditions(object.raw);
    const wanted = policyConditions(standing);
    const now = clock.monotonic();
    const change = changeOfConditions(wanted, before);
    if (change.kind === 'none') return undefined;
    const waitMs = (countedAt.get(policy) ?? Number.NEGATIVE_INFINITY) + countsEveryMs - now;
    if (change.kind === 'counts' && waitMs > 0) return { againAfterMs: waitMs };
    const { namespace, name } = object;
    const result = await applier.apply(
      {
        metadata: { name, ...(namespace === '' ? {} : { namespace }) },
        status: { conditions: conditionsToStore(wanted, { before, now: clock.now() }) },
      },
      {
        resource: view.resource,
        subresource: 'status',
        observed: object,
        // Of the object only these conditions are ours; in a cluster that Cilium does not run nobody else writes them.
        isOurs: () => true,
        force: true,
        signal,
      },
    );
    if (result.kind !== 'written') return result.kind === 'unchanged' ? undefined : OUTDATED;
    countedAt.set(policy, now);
    return undefined;
  };

  const tellOfProblems = async (
    standing: PolicyStanding,
    key: string,
    signal: AbortSignal,
  ): Promise<void> => {
    const { policy, generation } = standing;
    const note = [...standing.problems, ...standing.errors].join('; ');
    if (told.get(policy) === note) return;
    if (note !== '') {
      const found = await readObject(context, { key, signal });
      // Told of what is there: an Event without the object's uid is shown nowhere.
      if (found === undefined || generationOf(found) !== generation) return;
      events.record({
        about: eventTargetOf(RESOURCES.networkPolicies, found),
        type: 'Warning',
        reason: standing.problems.length > 0 ? 'NotEnforcedAsWritten' : 'Failing',
        action: 'EnforcePolicy',
        note,
      });
    }
    told.set(policy, note);
  };

  const reconcile = async (
    policy: string,
    signal: AbortSignal,
  ): Promise<ReconcileResult | undefined> => {
    const standing = board.get(policy);
    if (standing === undefined) {
      countedAt.delete(policy);
      told.delete(policy);
      return undefined;
    }
    const { kind, key } = splitPolicy(policy);
    if (kind === NETWORK_POLICY) {
      await tellOfProblems(standing, key, signal);
      return undefined;
    }
    const view = views.find(({ resource }) => resource.kind === kind);
    return view === undefined ? undefined : writeConditions(standing, { view, key }, signal);
  };

  board.onChange((policy) => void queue.addAfter(policy, settleMs));
  for (const view of views) {
    view.onChange(({ key }) => void queue.add(`${view.resource.kind} ${key}`));
  }
  const controller = createController({
    name: 'policy-status',
    queue,
    reconcile,
    workers: 2,
    allKeys: () => board.policies(),
    clock,
    logger,
  });

  return {
    name: 'policy-status',
    async follow(signal) {
      await Promise.all(views.map((view) => view.follow(signal)));
    },
    async lead({ over }) {
      await clock.sleep(beginAfterMs, over).catch(() => undefined);
      if (!over.aborted) await controller.run(over);
    },
    get status() {
      return {
        waitingFor: views.flatMap(({ resource, isSynced, status }) =>
          isSynced ? [] : [`${resource.plural} were not read yet${reasonOf(status?.reason)}`],
        ),
        // A cluster without Cilium's definitions has no such policies, and nothing is wrong with that.
        problems: problemsOfViews(views.filter(({ status }) => status?.state !== 'absent')),
        controllers: [controller.status()],
      };
    },
  };
}

/** What a policy allows is of no interest here, and most of it. */
function parseWithoutSpec(value: unknown): KubernetesObject {
  const object = parseKubernetesObject(value);
  const { spec: _spec, specs: _specs, ...raw } = object.raw;
  return { ...object, raw };
}

function reasonOf(reason = ''): string {
  return reason === '' ? '' : `: ${reason}`;
}

/** Takes `CiliumNetworkPolicy demo/web` apart. */
function splitPolicy(policy: string): { readonly kind: string; readonly key: string } {
  const space = policy.indexOf(' ');
  return { kind: policy.slice(0, space), key: policy.slice(space + 1) };
}

function generationOf({ raw }: KubernetesObject): number {
  const generation = recordOf(raw.metadata)?.generation;
  return typeof generation === 'number' ? generation : 0;
}

/** Reads a NetworkPolicy; undefined: it is not there. */
async function readObject(
  { api }: Pick<ControllerContext, 'api'>,
  { key, signal }: { key: string; signal: AbortSignal },
): Promise<KubernetesObject | undefined> {
  const resource: KubernetesResource = RESOURCES.networkPolicies;
  try {
    const path = resourcePath(resource, splitObjectKey(key));
    const { body } = await api.request({ method: 'GET', path, signal });
    return parseKubernetesObject(body);
  } catch (error) {
    if (error instanceof KubernetesError && error.code === 'not-found') return undefined;
    throw error;
  }
}
