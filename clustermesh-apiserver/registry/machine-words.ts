/** What people are told of machines that are not let in. */

/** Of a machine without a record. */
export function unknownReason(name: string): string {
  return `machine ${name} is not known: it never enrolled here, or etcd has lost what was kept of it; enrol it with a new token, or restore a backup`;
}

/** Of one that a person has removed. */
export function removedReason(name: string): string {
  return `machine ${name} was removed: to have it back, enrol it with a new token`;
}

/** To a session that is not the machine's any more. */
export function replacedReason(name: string): string {
  return `another session of machine ${name} has begun`;
}

/** To a machine while an earlier session of it may be alive. */
export function occupiedReason(name: string): string {
  return `machine ${name} has a session since another boot; if that one is dead it ends within seconds, try again`;
}

/** To a copy of a machine that is alive. */
export function clonedReason(name: string, instanceId: string): string {
  return `cloned: another machine is alive as ${name}, this one (boot ${instanceId}) is a copy of it; leave with it and enrol it under a name of its own`;
}
