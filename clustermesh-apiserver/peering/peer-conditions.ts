/** How a peer stands, as conditions of its object. Pure. */
import type { PeerReport } from '../../mesh/wire/peer-report.ts';
import type { CertificateProblem } from './client-certificate.ts';
import type { PeerFinding } from './peer-plan.ts';
import type { PeerCondition } from './peer-store.ts';

/** What is known of a peer. */
export interface PeerSituation {
  /** What keeps it out; empty: it is taken. */
  readonly refusals: readonly PeerFinding[];
  /** Something of it is in force all the same, from before. */
  readonly isFormerInForce: boolean;
  /** What is wrong with the object itself. */
  readonly objectProblem: string | undefined;
  readonly hasCertificate: boolean;
  readonly certificateProblem: CertificateProblem | undefined;
  /** What the mirror says; undefined: nothing yet. */
  readonly report: Pick<PeerReport, 'state' | 'reason'> | undefined;
}

/** What of it people have to look at besides what keeps the peer out. */
export function situationFindings({ certificateProblem }: PeerSituation): PeerFinding[] {
  return certificateProblem?.isUnknownThere === true
    ? [{ id: 'peer-half-connected', severity: 'warning', cause: certificateProblem.text }]
    : [];
}

/** Conditions, that of the whole first. */
export function peerConditions(situation: PeerSituation): PeerCondition[] {
  const parts = [trusted(situation), enrolled(situation), connected(situation)];
  const first = parts.find(({ status }) => !status);
  const ready: PeerCondition =
    first === undefined
      ? { type: 'Ready', status: true, reason: 'Ready', message: 'everything of it is read' }
      : { ...first, type: 'Ready' };
  return [ready, ...parts];
}

function trusted(situation: PeerSituation): PeerCondition {
  const { objectProblem, refusals, isFormerInForce } = situation;
  const kept = isFormerInForce ? '; what it was before stays in force' : '';
  if (objectProblem !== undefined) {
    return no('Trusted', 'Unusable', `${objectProblem}${kept}`);
  }
  if (refusals.length > 0) {
    const causes = refusals.map(({ id, cause }) => `${id}: ${cause}`).join('; ');
    return no('Trusted', 'Refused', `${causes}${kept}`);
  }
  return yes('Trusted', 'Trusted', 'its authority is believed for it alone');
}

function enrolled(situation: PeerSituation): PeerCondition {
  const { hasCertificate, certificateProblem, report } = situation;
  if (certificateProblem === undefined) {
    return hasCertificate
      ? yes('Enrolled', 'Enrolled', 'we have a certificate that it knows us by')
      : no('Enrolled', 'Waiting', 'a certificate is being asked for');
  }
  const { text, isUnknownThere } = certificateProblem;
  // Who is read all the same takes what we have: a key may have been replaced here.
  if (isUnknownThere && report?.state !== 'ready') return no('Enrolled', 'HalfConnected', text);
  return hasCertificate ? yes('Enrolled', 'RenewalFails', text) : no('Enrolled', 'Waiting', text);
}

function connected({ report }: PeerSituation): PeerCondition {
  if (report === undefined) return no('Connected', 'Waiting', 'it is not read yet');
  switch (report.state) {
    case 'ready':
      return yes('Connected', 'Ready', report.reason || 'everything of it is read');
    case 'connecting':
      return no('Connected', 'Connecting', report.reason || 'it is being connected');
    case 'syncing':
      return no('Connected', 'Syncing', report.reason);
    case 'stale':
      return no('Connected', 'Stale', report.reason);
    case 'failed':
      return no('Connected', 'Failed', report.reason);
    default:
      return report.state satisfies never;
  }
}

function yes(type: PeerCondition['type'], reason: string, message: string): PeerCondition {
  return { type, status: true, reason, message };
}

function no(type: PeerCondition['type'], reason: string, message: string): PeerCondition {
  return { type, status: false, reason, message };
}
