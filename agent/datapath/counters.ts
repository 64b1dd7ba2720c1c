import {
  COUNTER,
  DIRECTIONS,
  FIRST_DROP_REASON,
  REASON_LIMIT,
  REASONS,
} from '../../mesh/wire/maps.ts';
import { lookupElement, possibleCpus } from './bpf.ts';
import type { DatapathCounter } from './desired.ts';
import type { OpenMap } from './object.ts';

/** Numbers below this may stand for what went on; then there is a gap up to FIRST_DROP_REASON. */
const COUNT_LIMIT = 16;

/** Reads the metrics map, summed over CPUs. Reasons that never happened are left out. */
export function readCounters(metrics: OpenMap): DatapathCounter[] {
  const cpus = possibleCpus();
  const value = Buffer.alloc(cpus * COUNTER.size);
  const key = Buffer.alloc(4);
  const counters: DatapathCounter[] = [];
  for (let reason = 0; reason < REASON_LIMIT; reason += 1) {
    if (reason === COUNT_LIMIT) reason = FIRST_DROP_REASON;
    DIRECTIONS.forEach((direction, index) => {
      key.writeUInt32LE(reason * DIRECTIONS.length + index);
      if (!lookupElement(metrics.fd, key, value)) return;
      const { packets, bytes } = sumOverCpus(value, cpus);
      if (packets === 0n) return;
      // A newer program may count what this process has no name for.
      const name = REASONS.get(reason) ?? `reason-${reason}`;
      counters.push({ reason: name, direction, packets, bytes });
    });
  }
  return counters;
}

function sumOverCpus(value: Buffer, cpus: number): { packets: bigint; bytes: bigint } {
  let packets = 0n;
  let bytes = 0n;
  for (let cpu = 0; cpu < cpus; cpu += 1) {
    packets += value.readBigUInt64LE(cpu * COUNTER.size + COUNTER.fields.packets);
    bytes += value.readBigUInt64LE(cpu * COUNTER.size + COUNTER.fields.bytes);
  }
  return { packets, bytes };
}
