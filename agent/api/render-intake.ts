/** What became of what clusters say, as text: compared, held back, not counted. */
import type { ClusterReport } from './status.ts';

/** The part of a report that this is about. */
export type IntakeReport = Pick<
  ClusterReport,
  'name' | 'verified' | 'heldBack' | 'unknownBackends' | 'announces'
>;

/** How many kinds were compared with the server and found the same, and whether the publisher says so, too. */
export function verifiedText({ verified }: Pick<IntakeReport, 'verified'>): string {
  if (verified.length === 0) return '-';
  const right = verified.filter(
    ({ result, digest }) => result === 'match' && digest !== 'mismatch',
  );
  const signed = verified.filter(({ digest }) => digest === 'match');
  const text = `${right.length}/${verified.length}`;
  return signed.length === 0 ? text : `${text} digest ${signed.length}`;
}

/** What somebody should look at, a line each. */
export function intakeProblems(cluster: IntakeReport): string[] {
  const { name, verified, heldBack, unknownBackends, announces } = cluster;
  return [
    ...verified
      .filter(({ result, digest }) => result === 'mismatch' || digest === 'mismatch')
      .map(
        ({ kind, revision, reason }) =>
          `cluster ${name}: what is held of its ${kind} is not what it has at revision ${revision}: ${reason ?? 'the keys differ'}; it is read again by itself, and if this stays its clustermesh-apiserver writes what its etcd does not hold`,
      ),
    ...heldBack.map(
      ({ kind, count }) =>
        `cluster ${name}: ${count} ${kind} that its last list left out are kept until it marks the list as complete: look at whether its clustermesh-apiserver has lost its sources`,
    ),
    ...(unknownBackends.count === 0
      ? []
      : [
          `cluster ${name}: ${unknownBackends.count} backends do not count, it publishes no node or endpoint with their addresses: ${unknownBackends.examples.join(', ')}`,
        ]),
    ...announces.contested.map(
      ({ range, holder }) =>
        `cluster ${name}: its range ${range} is also that of cluster ${holder}, which had it first: give one of them another range`,
    ),
  ];
}
