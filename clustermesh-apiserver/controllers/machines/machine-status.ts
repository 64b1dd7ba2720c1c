/** The status of a MeshMachine: what the registry knows of the machine. Pure. */
import type { MachineReport } from '../../registry/machine-book.ts';
import type { MachineRecord } from '../../registry/machine-record.ts';
import type { JsonFields } from '../kubernetes-object.ts';
import { type Condition, storeConditions } from '../mcs/condition.ts';
import type { MachineState, MeshMachine } from './mesh-machine.ts';

/** What became of the labels that an object asks for. */
export type LabelsOutcome =
  /** It asks for none. */
  | { readonly kind: 'not-asked' }
  | { readonly kind: 'applied' }
  | { readonly kind: 'refused'; readonly reason: string };

/** The machine of an object, as far as there is one. */
export type KnownMachine =
  | { readonly kind: 'known'; readonly report: MachineReport; readonly labels: LabelsOutcome }
  /** The name is a machine's of another namespace. */
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'unknown' };

/** The whole status. `now`: milliseconds since 1970. */
export function machineStatus(
  machine: MeshMachine,
  known: KnownMachine,
  { now }: { readonly now: number },
): JsonFields {
  const { generation, conditions: before } = machine;
  const state = stateOf(known);
  const conditions = storeConditions(conditionsOf(machine, known), { before, generation, now });
  const shared = { observedGeneration: generation, state, conditions };
  if (known.kind !== 'known') return { ...shared, since: sinceOf(machine, { state, at: now }) };
  const { record, forMs } = known.report;
  const { addresses, addressRanges, labels, agentVersion, tokenId } = record;
  return {
    ...shared,
    since: sinceOf(machine, { state, at: now - forMs }),
    addresses,
    addressRanges,
    labels,
    agentVersion,
    tokenId,
    enrolledAt: timeText(record.enrolledAt),
    ...certificateOf(record),
    checks: [...record.checks]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([check, { healthy, reason }]) => ({ check, healthy, reason })),
  };
}

/** Since when it is in a state; that it is so by another replica's word, or since a restart, changes nothing. */
function sinceOf(
  machine: MeshMachine,
  now: { readonly state: string; readonly at: number },
): string {
  return machine.state === now.state && machine.since !== '' ? machine.since : timeText(now.at);
}

function stateOf(known: KnownMachine): MachineState {
  if (known.kind !== 'known') return 'NotEnrolled';
  switch (known.report.state) {
    case 'enrolled':
      return 'Enrolled';
    case 'connected':
    case 'elsewhere':
      return 'Connected';
    case 'gone':
      return 'Away';
    case 'removed':
      return 'Removed';
    default:
      throw known.report.state satisfies never;
  }
}

function conditionsOf(machine: MeshMachine, known: KnownMachine): readonly Condition[] {
  return [readyCondition(machine, known), labelsCondition(known), checksCondition(known)];
}

function readyCondition({ object }: MeshMachine, known: KnownMachine): Condition {
  const { name, namespace } = object;
  const no = (reason: string, message: string): Condition => ({
    type: 'Ready',
    status: 'False',
    reason,
    message,
  });
  if (known.kind === 'elsewhere') {
    const message = `a machine of another namespace has the name ${name}: choose another one`;
    return no('NameTaken', message);
  }
  const join = `clustermesh vm token create --name ${name} --namespace ${namespace}`;
  if (known.kind === 'unknown') {
    return no('NotEnrolled', `no machine has enrolled under this name: ${join}`);
  }
  const { state, problems } = known.report;
  switch (state) {
    case 'removed':
      return no('Removed', `the machine was removed: to have it back, ${join}`);
    case 'enrolled':
      return no('NoSession', 'it has enrolled, and had no session so far: start its agent');
    case 'gone':
      return no('Away', 'its session has ended: start it, or its agent, or mend the way to here');
    case 'connected':
    case 'elsewhere':
      return problems.length > 0
        ? no('Problem', problems.map(withoutTimes).join('; '))
        : { type: 'Ready', status: 'True', reason: 'Connected', message: '' };
    default:
      throw state satisfies never;
  }
}

function labelsCondition(known: KnownMachine): Condition {
  const type = 'LabelsApplied';
  if (known.kind !== 'known') {
    const message = 'they are given when the machine has enrolled';
    return { type, status: 'Unknown', reason: 'NotEnrolled', message };
  }
  const { labels } = known;
  switch (labels.kind) {
    case 'refused':
      return { type, status: 'False', reason: 'Refused', message: labels.reason };
    case 'applied':
      return { type, status: 'True', reason: 'AsSpecified', message: '' };
    case 'not-asked': {
      const message = 'spec.labels is not given: labels are those of the token and of vm label';
      return { type, status: 'True', reason: 'NotSpecified', message };
    }
    default:
      throw labels satisfies never;
  }
}

function checksCondition(known: KnownMachine): Condition {
  const type = 'ChecksPassed';
  if (known.kind !== 'known' || known.report.record.checks.size === 0) {
    return { type, status: 'Unknown', reason: 'NoChecks', message: '' };
  }
  const failing = [...known.report.failingChecks].map(
    ([check, { reason }]) => `${check}: ${reason}`,
  );
  return failing.length === 0
    ? { type, status: 'True', reason: 'Passed', message: '' }
    : { type, status: 'False', reason: 'Failing', message: failing.sort().join('; ') };
}

/** How long ago a clone has tried last is no news each second. */
function withoutTimes(problem: string): string {
  return problem.replace(/, \d+ s ago for the last time/, '');
}

function certificateOf({ keys }: MachineRecord): { readonly certificateExpiresAt?: string } {
  const ends = keys.map(({ expiresAt }) => expiresAt);
  return ends.length === 0 ? {} : { certificateExpiresAt: timeText(Math.max(...ends)) };
}

/** As Kubernetes writes times. */
function timeText(milliseconds: number): string {
  return new Date(milliseconds).toISOString().replace(/\.\d{3}Z$/, 'Z');
}
