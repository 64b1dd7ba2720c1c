/** How late clusters' changes come into use, and what their clocks say, as text. */
import type { MeshKind } from '../../mesh/remote/cluster-sink.ts';
import { isClockWrong } from '../../mesh/remote/lag.ts';
import type { RecentLag } from '../../mesh/remote/lag-counts.ts';
import type { ClusterReport } from './status.ts';

/** The part of a report that this is about. */
export type LagReport = Pick<ClusterReport, 'name' | 'own' | 'lag'>;

/** Header of the table of lags. */
export const LAG_HEADER = [
  'LAG p50/p99 IN MS',
  'NODES',
  'IDENTITIES',
  'ADDRESSES',
  'SERVICES',
  'CLOCK',
] as const;

/** One cluster's row of that table; undefined where nothing is measured. */
export function lagRow({ name, own, lag }: LagReport): string[] | undefined {
  if (lag === undefined) return undefined;
  const title = own ? `${name} (own)` : name;
  if (lag.kind === 'unknown') return [title, `unknown: ${lag.reason}`];
  const cell = (kind: MeshKind): string => lagText(lag.recent[kind]);
  return [
    title,
    cell('nodes'),
    cell('identities'),
    cell('ips'),
    cell('services'),
    clockText(lag.clock.differenceMs, lag.clock.uncertaintyMs),
  ];
}

/** What somebody should do about a cluster's clock. */
export function clockProblems({ name, lag }: LagReport): string[] {
  if (lag?.kind !== 'measured') return [];
  if (!isClockWrong(lag.clock)) return [];
  const { differenceMs } = lag.clock;
  const direction = differenceMs > 0 ? 'ahead of' : 'behind';
  return [
    `cluster ${name}: its clock is ${seconds(Math.abs(differenceMs))} ${direction} ours: look at the time daemons on both sides; lags are right all the same, times in logs and the validity of certificates are not`,
  ];
}

function lagText(lag: RecentLag | undefined): string {
  return lag === undefined ? '-' : `${milliseconds(lag.p50Ms)}/${milliseconds(lag.p99Ms)}`;
}

function clockText(differenceMs: number, uncertaintyMs: number): string {
  const sign = differenceMs < 0 ? '-' : '+';
  return `${sign}${seconds(Math.abs(differenceMs))} (within ${seconds(uncertaintyMs)})`;
}

function milliseconds(value: number): string {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

function seconds(value: number): string {
  return value < 1000 ? `${milliseconds(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}
