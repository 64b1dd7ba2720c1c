/** Changes of peers for people. Pure. */
import { diffLines } from './line-diff.ts';
import { findingLines, type PeerChangeAnswer } from './peer-client.ts';

const WORDS = {
  created: 'is a peer now',
  changed: 'was changed',
  deleted: 'is a peer no more',
  unchanged: 'is as it should be',
  refused: 'was refused, nothing was changed',
} as const;
const PLANS = {
  ...WORDS,
  created: 'would be a peer',
  changed: 'would be changed',
  deleted: 'would be a peer no more',
  refused: 'would be refused',
} as const;

/** A change as text; with the differences where it is only a plan. `where` names the cluster whose peer it is. */
export function renderChange(
  change: PeerChangeAnswer,
  { dryRun, where }: { readonly dryRun: boolean; readonly where?: string | undefined },
): string {
  const { name, outcome, revision } = change;
  const place = where === undefined ? '' : `${where}: `;
  const undo =
    revision === 0 || dryRun
      ? ''
      : ` (undo: clustermesh peer rollback ${name} --revision ${revision})`;
  const words = (dryRun ? PLANS : WORDS)[outcome];
  const lines = [
    `${place}${name} ${words}${undo}`,
    ...change.findings.flatMap((finding) => findingLines(finding, name)),
    ...(dryRun ? diffLines(change.before, change.after) : []),
  ];
  return lines.map((line) => `${line}\n`).join('');
}
