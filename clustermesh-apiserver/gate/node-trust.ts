import type { RefusalReason } from './caller.ts';

/** What is known of nodes that enrolled besides their certificates. Both listeners ask it, so that a node ends at both. */
export interface NodeTrust {
  /**
   * Why the certificate of a node that enrolled by a token does not count; undefined: it does, or nobody can say that it does
   * not. `nodeUid` is that of the Node it was given for; undefined: the certificate names none.
   */
  judge(commonName: string, nodeUid: string | undefined): RefusalReason | undefined;
  /** Calls back when a node that counted may count no more, or one that did not may. */
  onChange(callback: () => void): void;
}
