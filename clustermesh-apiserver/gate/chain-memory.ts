/**
 * What a chain of certificates amounts to, remembered: every connection is judged again every few seconds, and signatures are
 * dear. Nothing changes as long as the authorities are the same and no certificate begins or ceases to be valid. Pure.
 */
import type { X509Certificate } from 'node:crypto';
import { findDateFault } from '../../mesh/runtime/certificate-words.ts';
import type { ChainEnds } from './caller.ts';
import { findChainEnds, type TrustBundles } from './certificate-chain.ts';

/** Dates of the leaf, and where its chain ends. */
export interface ChainFinding {
  readonly dateFault: 'expired' | 'not-yet-valid' | undefined;
  readonly ends: ChainEnds;
}

/** Makes the memory of one chain. The function looks anew only where something may have changed. `now`: ms since 1970. */
export function createChainMemory(
  leaf: X509Certificate,
  intermediates: readonly X509Certificate[],
): (bundles: TrustBundles, now: number) => ChainFinding {
  let known:
    | {
        readonly bundles: TrustBundles;
        readonly from: number;
        readonly until: number;
        readonly finding: ChainFinding;
      }
    | undefined;
  return (bundles, now) => {
    if (known?.bundles === bundles && now >= known.from && now < known.until) return known.finding;
    const finding = {
      dateFault: findDateFault(leaf, now)?.fault,
      ends: findChainEnds(leaf, intermediates, bundles, now),
    };
    const anchors = [bundles.own, ...bundles.peers.values()].flat();
    let [from, until] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
    for (const certificate of [leaf, ...intermediates, ...anchors]) {
      // A certificate is still valid at the moment that it names as its end.
      for (const at of [Date.parse(certificate.validFrom), Date.parse(certificate.validTo) + 1]) {
        if (at <= now) from = Math.max(from, at);
        else until = Math.min(until, at);
      }
    }
    known = { bundles, from, until, finding };
    return finding;
  };
}
