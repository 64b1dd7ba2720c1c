/** Where the test peers are that `scripts/peers.sh` builds: programs of real Cilium versions, and kvtool over its packages. */
import { existsSync } from 'node:fs';
import { projectPath } from '../../mesh/runtime/project-path.ts';

/** Versions of Cilium that `npm test` runs against. */
const NEWEST_TWO = ['cilium-1.19', 'cilium-1.20'];

/** A program of a test peer, or why it is not there. */
export type PeerBinary =
  | { readonly kind: 'found'; readonly path: string }
  | { readonly kind: 'missing'; readonly reason: string };

/**
 * Versions of Cilium to test against: those of ISTHMUS_CILIUMS, separated by commas, as `scripts/peers.sh --all` gives
 * them; else the newest two. To be given `process.env`.
 */
export function testedCiliums(
  env: Readonly<Record<string, string | undefined>>,
): readonly string[] {
  return env.ISTHMUS_CILIUMS?.split(',') ?? NEWEST_TWO;
}

/** Finds a program by peer and name, such as `cilium-1.20/kvtool` or `cilium-1.19/clustermesh-apiserver`. */
export function findPeer(name: string): PeerBinary {
  const path = projectPath(`dist/peers/${name}`);
  if (existsSync(path)) return { kind: 'found', path };
  const reason = `${name} is not built: install Go and run scripts/peers.sh`;
  return { kind: 'missing', reason };
}

/**
 * Paths of several programs for a test, or why it must be skipped, with their count. In CI (`CI=true`, to be given
 * `process.env`) nothing is skipped: the paths are given, and starting what is missing fails.
 */
export function needPeers(
  names: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): { readonly skip: string | false; readonly paths: readonly string[] } {
  const found = names.map(findPeer);
  const missing = found.flatMap((peer) => (peer.kind === 'missing' ? [peer.reason] : []));
  const skip =
    missing.length > 0 && env.CI !== 'true'
      ? `${missing.length} of ${names.length} test peers missing: ${missing.join('; ')}`
      : false;
  return { skip, paths: names.map((name) => projectPath(`dist/peers/${name}`)) };
}
