import type { KvStore } from '../kvstore/kvstore.ts';
import type { Clock } from '../runtime/clock.ts';
import type { ClusterName } from '../wire/ids.ts';
import { meshPeerKey } from '../wire/keys.ts';
import { decodePeerReport, type PeerReport } from '../wire/peer-report.ts';
import { WireError } from '../wire/wire-error.ts';

/** A mirror rewrites its report each 10 s; after three missed ones it is the mirror that is silent. */
const REPORT_PATIENCE_MS = 35_000;

/** What a mirror says of the cluster that it mirrors. */
export type MirrorView =
  /** It makes no reports (Cilium's kvstoremesh does not): the cluster's own state cannot be known. */
  | { readonly kind: 'none' }
  | { readonly kind: 'reports'; readonly report: PeerReport }
  /** It made reports and has stopped: what is wrong is the mirror, and of the cluster nothing is known. */
  | { readonly kind: 'silent'; readonly silentMs: number };

/** Keeps the latest report of a mirror. */
export interface MirrorReports {
  take(report: PeerReport | undefined): void;
  view(): MirrorView;
}

/** Makes a record without a report. */
export function createMirrorReports(clock: Clock): MirrorReports {
  let latest: { readonly report: PeerReport; readonly at: number } | undefined;
  return {
    take(report) {
      latest = report === undefined ? undefined : { report, at: clock.monotonic() };
    },
    view() {
      if (latest === undefined) return { kind: 'none' };
      const silentMs = clock.monotonic() - latest.at;
      if (silentMs > REPORT_PATIENCE_MS) return { kind: 'silent', silentMs };
      return { kind: 'reports', report: latest.report };
    },
  };
}

/** Watches the report about a cluster until `signal` aborts, or for good where it may not be read. */
export async function watchMirrorReport(
  store: KvStore,
  cluster: ClusterName,
  options: {
    readonly reports: MirrorReports;
    readonly onReport: () => void;
    readonly onUnreadable: (message: string) => void;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { reports, signal } = options;
  const key = meshPeerKey(cluster);
  for await (const event of store.watch({ key }, { signal })) {
    switch (event.kind) {
      case 'put':
        try {
          reports.take(decodePeerReport(event.pair.value, key));
          options.onReport();
        } catch (error) {
          // A newer mirror: of the cluster's own state nothing is known then, as with Cilium's mirror.
          if (!(error instanceof WireError)) throw error;
          reports.take(undefined);
          options.onUnreadable(error.message);
        }
        break;
      case 'delete':
        reports.take(undefined);
        options.onReport();
        break;
      case 'disconnected':
        if (!event.error.retryable) return;
        break;
      case 'list-start':
      case 'synced':
      case 'progress':
        break;
      default:
        event satisfies never;
    }
  }
}
