/** Where a machine's fixed calls go: its cluster's servers, found by name again and again, and the resolvers that it uses. */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { reasonOf } from '../machine/machine-error.ts';
import type { FixedPlaces } from './fixed-rules.ts';

/** The machine's own, and what systemd-resolved asks in its turn when it is the one on loopback. */
export const RESOLVER_FILES: readonly string[] = [
  '/etc/resolv.conf',
  '/run/systemd/resolve/resolv.conf',
];
/** An address that a name no longer has stays open for so long: somebody may still be connected to it. */
const KEPT_MS = 3_600_000;
/** Nobody waits longer for a name: the trial of a firewall begins, and an agent starts, without it. */
const RESOLVE_MS = 2000;

/** Finds the places. */
export interface PlaceFinder {
  /** Looks again. A name that cannot be resolved keeps the addresses that it had. */
  look(): Promise<Omit<FixedPlaces, 'adminPorts'>>;
  /** Names that could not be resolved when it looked last, a sentence each. */
  problems(): readonly string[];
}

/** Makes a finder that has not looked yet. */
export function createPlaceFinder(options: {
  /** Asked each time. */
  readonly servers: () => readonly HostPort[];
  readonly resolve: (host: string) => Promise<readonly IpAddress[]>;
  readonly clock: Clock;
  /** Default: RESOLVER_FILES. */
  readonly resolverFiles?: readonly string[] | undefined;
}): PlaceFinder {
  const { resolverFiles = RESOLVER_FILES, clock } = options;
  /** By address and port, when it was last an answer. */
  const servers = new Map<string, { address: IpAddress; port: number; at: number }>();
  let problems: readonly string[] = [];

  const findServer = async ({ host, port }: HostPort): Promise<string | undefined> => {
    const late = new AbortController();
    const waiting = clock.sleep(RESOLVE_MS, late.signal).then(() => {
      throw new Error(`no answer within ${RESOLVE_MS} ms`);
    });
    // Whoever loses the race is of no interest.
    waiting.catch(() => undefined);
    try {
      for (const address of await Promise.race([options.resolve(host), waiting])) {
        servers.set(`${address} ${port}`, { address, port, at: clock.monotonic() });
      }
      return undefined;
    } catch (error) {
      return `the firewall of this machine cannot find ${host}, where the agent calls its cluster: ${reasonOf(error)}`;
    } finally {
      late.abort();
    }
  };

  return {
    problems: () => problems,
    async look() {
      const said = await Promise.all(options.servers().map(findServer));
      problems = [...new Set(said.filter((problem) => problem !== undefined))];
      if (problems.length === 0) {
        for (const [key, { at }] of servers) {
          if (clock.monotonic() - at > KEPT_MS) servers.delete(key);
        }
      }
      return {
        servers: [...servers.values()].map(({ address, port }) => ({ address, port })),
        resolvers: [...new Set(resolverFiles.flatMap(readResolvers))],
      };
    },
  };
}

/** Resolvers that a file in the form of resolv.conf(5) names, but for those on loopback; none where there is no such file. */
export function readResolvers(path: string): IpAddress[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    // Many machines lack one of the two.
    return [];
  }
  return [...text.matchAll(/^[ \t]*nameserver[ \t]+([^\s#;%]+)/gm)].flatMap(([, name = '']) => {
    if (isIP(name) === 0) return [];
    const address = parseIpAddress(name);
    return /^127\.|^::1$/.test(address) ? [] : [address];
  });
}
