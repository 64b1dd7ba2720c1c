/** The load generator of the data path's benchmarks, and what it measured. */
import { z } from 'zod';
import type { CommandResult } from '../e2e/lab/command.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';

/** The program, built by `npm run build`. */
export const NETLOAD = projectPath('dist/bin/netload');

/** What is sent; `bench/netload/netload.c` says more. */
export type LoadKind = 'stream' | 'rr' | 'crr' | 'connect' | 'udp-rr' | 'udp-send';

/** Where to, for how long, by how many threads. */
export interface Load {
  readonly kind: LoadKind;
  /** `ADDRESS` or `ADDRESS+COUNT`. */
  readonly target: string;
  readonly port: number;
  readonly seconds: number;
  readonly threads: number;
  /** Bytes of a datagram. Default: netload's own. */
  readonly size?: number;
}

const reportSchema = z.object({
  operations: z.number(),
  bytes: z.number(),
  errors: z.number(),
  seconds: z.number(),
});

/** What a client counted. */
export type LoadReport = z.infer<typeof reportSchema>;

/** Command line of a client. */
export function clientOf({ kind, target, port, seconds, threads, size }: Load): string[] {
  const sizes = size === undefined ? [] : [String(size)];
  return [NETLOAD, kind, target, String(port), String(seconds), String(threads), ...sizes];
}

/** Reads a client's answer. Throws when it failed, or when more than one operation in a hundred did. */
export function reportOf(load: Load, { code, stdout, stderr }: CommandResult): LoadReport {
  const what = `netload ${load.kind} to ${load.target}`;
  if (code !== 0) throw new Error(`${what} ended with ${code}: ${stderr.trim() || stdout.trim()}`);
  const report = reportSchema.parse(JSON.parse(stdout));
  if (report.operations === 0 || report.errors > report.operations / 100) {
    throw new Error(`${what}: ${report.errors} errors beside ${report.operations} operations`);
  }
  return report;
}

/** Bits a second for a stream, operations a second for all else. */
export function rateOf(load: Load, report: LoadReport): number {
  return (load.kind === 'stream' ? report.bytes * 8 : report.operations) / report.seconds;
}
