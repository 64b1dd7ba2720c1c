/** Events of the eBPF programs: switching them on and off, reading them, and counting those that were left out. */
import { EVENT_BUCKET, EVENT_CONTROL, EVENT_KINDS, TRACE_LEVELS } from '../../mesh/wire/maps.ts';
import { interfaceName, lookupElement, possibleCpus, updateElement } from './bpf.ts';
import { writeTraceLevel } from './config.ts';
import type { DatapathEvents, EventLosses, EventRate } from './desired.ts';
import { DEFAULT_EVENT_RATE } from './event-rate.ts';
import type { OpenMaps } from './object.ts';
import { openRingReader } from './ring-reader.ts';

const NANOSECONDS = 1_000_000_000;

/** Wraps open maps, which stay the caller's and must outlive what reads. Switches off what an earlier process left on. */
export function createDatapathEvents(
  maps: OpenMaps,
  rate: EventRate = DEFAULT_EVENT_RATE,
): DatapathEvents {
  const control = maps.get('mesh_event_control');
  const buckets = maps.get('mesh_event_buckets');
  const config = maps.get('mesh_config');
  writeControl(control.fd, undefined);
  return {
    async read(listener) {
      const reader = await openRingReader(maps.get('mesh_events').fd, listener);
      writeControl(control.fd, rate);
      return {
        async [Symbol.asyncDispose]() {
          writeControl(control.fd, undefined);
          await reader[Symbol.asyncDispose]();
        },
      };
    },
    setTraceLevel: (level) => writeTraceLevel(config, TRACE_LEVELS.indexOf(level)),
    interfaceName,
    losses: () => EVENT_KINDS.map((kind, index) => ({ kind, ...readBucket(buckets.fd, index) })),
  };
}

/** `rate` undefined: nothing is written. */
function writeControl(fd: number, rate: EventRate | undefined): void {
  const value = Buffer.alloc(EVENT_CONTROL.size);
  if (rate !== undefined) {
    const intervalNs = Math.max(1, Math.round(NANOSECONDS / rate.perSecond));
    value.writeBigUInt64LE(BigInt(intervalNs), EVENT_CONTROL.fields.intervalNs);
    // The first of a burst needs no room in the bucket.
    value.writeBigUInt64LE(
      BigInt(intervalNs * (Math.max(1, rate.burst) - 1)),
      EVENT_CONTROL.fields.burstNs,
    );
  }
  updateElement(fd, Buffer.alloc(4), value);
}

function readBucket(fd: number, index: number): Omit<EventLosses, 'kind'> {
  const cpus = possibleCpus();
  const key = Buffer.alloc(4);
  key.writeUInt32LE(index);
  const value = Buffer.alloc(cpus * EVENT_BUCKET.size);
  lookupElement(fd, key, value);
  let suppressed = 0;
  let lost = 0;
  for (let offset = 0; offset < value.length; offset += EVENT_BUCKET.size) {
    suppressed += Number(value.readBigUInt64LE(offset + EVENT_BUCKET.fields.suppressed));
    lost += Number(value.readBigUInt64LE(offset + EVENT_BUCKET.fields.lost));
  }
  return { suppressed, lost };
}
