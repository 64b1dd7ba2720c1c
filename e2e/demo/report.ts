/** The demo's result as text for a terminal. */
import Table from 'cli-table3';
import type { Row } from './story.ts';

/** The table of what was done and seen, and the propagation times. */
export function renderReport(
  rows: readonly Row[],
  propagation: ReadonlyMap<string, number>,
): string {
  const table = new Table({
    head: ['WHAT', 'HOW', 'SEEN'],
    colWidths: [30, 42, 44],
    wordWrap: true,
    style: { head: [] },
  });
  for (const row of rows) table.push([row.what, row.how, row.seen]);
  const times = [...propagation].sort().map(([node, ms]) => `${node} after ${ms.toFixed(1)} ms`);
  const removal =
    times.length === 0
      ? []
      : [
          `The removed backend left the kernel of ${times.join(', of ')} (from its manifest's removal).`,
        ];
  return [table.toString(), ...removal, ''].join('\n');
}

/** How to look around in a lab that was kept. */
export function renderKept(name: string): string {
  return [
    `Lab ${name} is still running. Look around, as root:`,
    `  npx clustermesh lab exec --name ${name} client -- curl -s http://10.101.0.10/`,
    `  npx clustermesh lab exec --name ${name} vm-1 -- curl -s http://10.101.0.10/     from the machine`,
    `  npx clustermesh status --lab ${name}`,
    `  ls /run/isthmus/lab/${name}          logs, manifests and certificates of each cluster and node`,
    `  npx clustermesh lab down --name ${name}`,
    '',
  ].join('\n');
}
