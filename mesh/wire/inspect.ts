/** A verdict on any pair: what it is, whether a reader would take it, and how this version would write it. */
import { checkPair, clusterOfPair } from './consistency.ts';
import { type DecodedPair, decodePair, encodePair } from './decode-any.ts';
import type { EndpointSlice } from './endpoint-slice.ts';
import type { ClusterName, MaxConnectedClusters } from './ids.ts';
import { kindOfKey, type ParsedKey, parseKey } from './parse-key.ts';
import { WireError } from './wire-error.ts';

/** What a pair is; `unknown` is for keys that nothing of the mesh uses. */
export type PairKind = ParsedKey['kind'] | 'unknown';

/** A verdict. */
export interface Inspection {
  readonly kind: PairKind;
  /** Where key or value say it. */
  readonly cluster: ClusterName | undefined;
  /** Undefined for a pair that is valid. */
  readonly error: WireError | undefined;
  /** The value as this version would write it; undefined for a pair that is not valid. */
  readonly value: string | Buffer | undefined;
  /** For a value that is no text: what is in it. */
  readonly content: EndpointSlice | undefined;
}

/** Looks at a pair. Never throws for what it says. `max` is the size of the mesh that it is to fit. */
export function inspectPair(
  key: string,
  value: Buffer | string,
  max: MaxConnectedClusters,
): Inspection {
  let kind: PairKind = kindOfKey(key) ?? 'unknown';
  let cluster: ClusterName | undefined;
  try {
    const parsed = parseKey(key);
    kind = parsed.kind;
    if ('cluster' in parsed) cluster = parsed.cluster;
    const pair: DecodedPair = decodePair(key, value);
    checkPair(pair, key, max);
    return {
      kind,
      cluster: clusterOfPair(pair),
      error: undefined,
      value: encodePair(pair),
      content: pair.kind === 'endpoint-slice' ? pair.value : undefined,
    };
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return { kind, cluster, error, value: undefined, content: undefined };
  }
}
