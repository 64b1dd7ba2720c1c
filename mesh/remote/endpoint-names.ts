import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { type HostAlias, parseUrl } from '../kvstore/etcd-endpoint.ts';
import type { Clock } from '../runtime/clock.ts';

/** A resolver that hangs must not hold up a connection that knows addresses from before. */
const RESOLVE_TIMEOUT_MS = 5000;
/** How often in a row a working connection's addresses must be missing before it is given up: some names lead to a part of many addresses each time. */
const MISSES_BEFORE_MOVE = 2;

/** Finds the addresses of a host name. Rejects when it has none. */
export type ResolveHost = (host: string) => Promise<readonly string[]>;

/** Asks the machine's resolver, `/etc/hosts` included. */
export const resolveHost: ResolveHost = async (host) =>
  (await lookup(host, { all: true })).map(({ address }) => address);

/** The names in a list of endpoints, and where they lead. */
export interface EndpointNames {
  /** Resolves every name for a new connection. A name that cannot be resolved has its last addresses, or is left out. */
  dial(): Promise<HostAlias[]>;
  /**
   * Resolves them again. True when the connection must be made anew: it is broken and a name leads elsewhere, or it
   * works and no address of a name has been among its addresses twice in a row.
   */
  haveMoved(options: { readonly isBroken: boolean }): Promise<boolean>;
}

/** Collects the names of endpoints; those in `fixed` have their addresses from the file and never move. */
export function createEndpointNames(
  endpoints: readonly string[],
  options: {
    readonly fixed: readonly HostAlias[];
    readonly resolve: ResolveHost;
    readonly clock: Clock;
  },
): EndpointNames {
  const { clock, fixed, resolve } = options;
  const names = [...new Set(endpoints.map((url) => parseUrl(url).host))].filter(
    (host) => isIP(host) === 0 && !fixed.some(({ hostname }) => hostname === host),
  );
  const dialled = new Map<string, readonly string[]>();
  let misses = 0;

  const ask = async (host: string): Promise<readonly string[]> => {
    const answered = new AbortController();
    const late = clock.sleep(RESOLVE_TIMEOUT_MS, answered.signal).then(() => []);
    try {
      return await Promise.race([resolve(host), late]);
    } catch {
      // A name server that is out of order takes nobody away; the attempt to connect says what is wrong.
      return [];
    } finally {
      answered.abort();
      await late.catch(() => []);
    }
  };

  return {
    async dial() {
      const found = await Promise.all(names.map(async (name) => [name, await ask(name)] as const));
      for (const [name, ips] of found) if (ips.length > 0) dialled.set(name, ips);
      misses = 0;
      return [...dialled].map(([hostname, ips]) => ({ hostname, ips }));
    },
    async haveMoved({ isBroken }) {
      const found = await Promise.all(names.map(async (name) => [name, await ask(name)] as const));
      const known = found.filter(([, ips]) => ips.length > 0);
      if (isBroken) return known.some(([name, ips]) => !isSame(ips, dialled.get(name) ?? []));
      const isGone = known.some(
        ([name, ips]) => !ips.some((ip) => dialled.get(name)?.includes(ip) ?? false),
      );
      misses = isGone ? misses + 1 : 0;
      return misses >= MISSES_BEFORE_MOVE;
    },
  };
}

function isSame(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((ip) => b.includes(ip));
}
