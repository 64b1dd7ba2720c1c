/** Pages of what the programs say: reasons of drops, and problems with what mends them. Pure. */
import { ADVICE } from '../agent/monitor/advice.ts';
import type { ProblemKind } from '../mesh/diagnosis/problem.ts';
import { PROBLEMS } from '../mesh/diagnosis/problems.ts';
import { markdownTable } from './reference-options.ts';

const KINDS: readonly (readonly [string, ProblemKind])[] = Object.entries(PROBLEMS);

/** Reasons and problems in tables. */
export function messagesPage(introduction: string): string {
  return [
    '# Messages\n',
    `${introduction}\n`,
    '## Problems\n',
    'What `clustermesh status` finds, by id. Each leads to its section of [troubleshooting](../troubleshooting.md).\n',
    markdownTable(
      ['Id', 'Severity', 'What is seen'],
      KINDS.map(([id, { severity, symptom }]) => [
        `[${id}](../troubleshooting.md#${id})`,
        severity,
        symptom,
      ]),
    ),
    '## Reasons for drops and refusals\n',
    'What `clustermesh monitor` and the metrics of the datapath name, and what to do.\n',
    markdownTable(
      ['Reason', 'What it means', 'What to do'],
      Object.entries(ADVICE).map(([reason, { meaning, advice }]) => [
        `\`${reason}\``,
        meaning,
        advice,
      ]),
    ),
  ].join('\n');
}

/** A section for each problem, its id as heading. */
export function problemSections(): string {
  return KINDS.map(([id, { severity, symptom, cause, next, mend }]) =>
    [
      `### ${id}\n`,
      `${sentence(symptom)} (${severity})\n`,
      `- **Why**: ${sentence(cause)}`,
      `- **Look**: \`${next}\``,
      `- **Mend**: ${mend}\n`,
    ].join('\n'),
  ).join('\n');
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}
