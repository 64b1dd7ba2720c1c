import type { UpkeepReport } from '../datapath/desired.ts';

/** Interfaces that are named; of more only the number is told. */
const MOST_NAMES = 3;
/** From here on it is worth a word that a map is filling up. */
const NEARLY_FULL = 0.8;

/** How packets travel, and maps that are nearly full, in a line. */
export function datapathLine(report: UpkeepReport): string {
  const { routingMode, tunnelMtu, largerMtus, garbage } = report;
  const parts = [`routing: ${routingMode}, tunnel MTU ${tunnelMtu}`];
  if (largerMtus.length > 0) {
    const names = largerMtus
      .slice(0, MOST_NAMES)
      .map(({ hostInterface, mtu }) => `${hostInterface} ${mtu}`);
    const others = largerMtus.length > MOST_NAMES ? ', ...' : '';
    parts.push(
      `${largerMtus.length} endpoints with a larger MTU (${[...names].join(', ')}${others}) rely on path MTU discovery: set the CNI's MTU to ${tunnelMtu} to spare each connection that`,
    );
  }
  for (const { map, entries, maxEntries } of garbage.maps) {
    if (entries / maxEntries < NEARLY_FULL) continue;
    parts.push(`map ${map} is ${Math.round((entries / maxEntries) * 100)} % full`);
  }
  return parts.join('; ');
}
