import type { RefusalReason } from './caller.ts';

/** What is known of machines besides their certificates. Both listeners ask it, so that what is removed is removed at both. */
export interface MachineTrust {
  /**
   * Why a certificate of a machine does not count; undefined: it does. `publicKeyHash` is made when it is needed: SHA-256 of the
   * public key (SPKI, DER) in lower-case hex.
   */
  judge(commonName: string, publicKeyHash: () => string): RefusalReason | undefined;
  /** Calls back when a machine that counted may count no more, or one that did not may. */
  onChange(callback: () => void): void;
}
