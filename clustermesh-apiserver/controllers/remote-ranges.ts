/** Which backends of other clusters are where they may be: nobody's Service leads to another cluster's addresses. */
import type { Announced } from '../../mesh/remote/announced.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { type IpAddress, type IpPrefix, ipFamily, makePrefix } from '../../mesh/wire/ip.ts';
import type { ClusterService } from '../../mesh/wire/service.ts';

/** Addresses of this cluster. */
export interface OwnRanges {
  readonly pods: readonly IpPrefix[];
  readonly nodes: readonly IpPrefix[];
  readonly services: readonly IpPrefix[];
}

/** Judges backends. */
export interface RemoteRanges {
  setOwn(ranges: OwnRanges): void;
  /** The service without the backends that may not be there: the same object where all may. */
  admitted(service: ClusterService): ClusterService;
  /** Backends that may not be there, and why. */
  refused(service: ClusterService): ReadonlyMap<IpAddress, string>;
  /** Tells clusters whose addresses may be judged otherwise than before, some time after the change; until `signal` aborts. */
  follow(
    tell: (clusters: readonly ClusterName[]) => void,
    options: {
      readonly known: () => Iterable<ClusterName>;
      readonly settleMs: number;
      readonly clock: Clock;
      readonly signal: AbortSignal;
    },
  ): Promise<void>;
}

const IDLE_MS = 60_000;

/** Makes a judge over what clusters announce. */
export function createRemoteRanges(announced: Announced, own: ClusterName): RemoteRanges {
  const refused = (service: ClusterService): Map<IpAddress, string> => {
    const found = new Map<IpAddress, string>();
    for (const address of service.backends.keys()) {
      const prefix = makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
      const refusal = announced.judge(service.cluster, prefix);
      if (refusal !== undefined) found.set(address, refusal.message);
    }
    return found;
  };
  return {
    setOwn: (ranges) => announced.setLists(new Map([[own, { ...ranges, machines: [] }]])),
    refused,
    admitted(service) {
      const bad = refused(service);
      if (bad.size === 0) return service;
      return {
        ...service,
        backends: new Map([...service.backends].filter(([address]) => !bad.has(address))),
      };
    },
    async follow(tell, { known, settleMs, clock, signal }) {
      const bell = createBell();
      let isChanged = false;
      const stopListening = announced.onChange(() => {
        isChanged = true;
        bell.ring();
      });
      const wake = (): void => bell.ring();
      signal.addEventListener('abort', wake, { once: true });
      try {
        while (!signal.aborted) {
          await bell.wait(IDLE_MS, clock);
          bell.clear();
          if (!isChanged) continue;
          // Reading a cluster's nodes makes many changes at once.
          await clock.sleep(settleMs, signal).catch(() => undefined);
          if (signal.aborted) return;
          isChanged = false;
          tell([...known()]);
        }
      } finally {
        stopListening();
        signal.removeEventListener('abort', wake);
      }
    },
  };
}
