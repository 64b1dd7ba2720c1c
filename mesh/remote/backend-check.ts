/**
 * Which backends of a peer's services count: those whose address the peer's own ip table or list of nodes has. A
 * service may come before its addresses, and stay when they go, so it is looked at again when one of them does.
 */
import type { IpAddress } from '../wire/ip.ts';
import type { ClusterService, PortMap } from '../wire/service.ts';

/** The services of one peer. */
export interface BackendCheck {
  /** Takes a service. Returns it without the backends that do not count: the same object where all do. */
  set(name: string, service: ClusterService): ClusterService;
  delete(name: string): void;
  /** An address came or went. */
  touch(address: IpAddress): void;
  /** Services with an address that came or went since the last call, as they count now. */
  takeChanged(): readonly { readonly name: string; readonly service: ClusterService }[];
  clear(): void;
  /** Backends that do not count now. */
  readonly missing: number;
  /** Some of them, for people: `namespace/name address`. */
  examples(): readonly string[];
  /** Those of one service, `namespace/name`. */
  missingOf(name: string): readonly IpAddress[];
}

const MOST_EXAMPLES = 5;

/** Makes an empty check. */
export function createBackendCheck(isKnown: (address: IpAddress) => boolean): BackendCheck {
  const services = new Map<string, ClusterService>();
  /** Services that an address is a backend of: nearly always one. */
  const byAddress = new Map<IpAddress, string | readonly string[]>();
  const missing = new Map<string, number>();
  const changed = new Set<string>();
  let total = 0;

  const link = (address: IpAddress, name: string): void => {
    const found = byAddress.get(address);
    if (found === undefined) byAddress.set(address, name);
    else if (typeof found === 'string') {
      if (found !== name) byAddress.set(address, [found, name]);
    } else if (!found.includes(name)) byAddress.set(address, [...found, name]);
  };
  const unlink = (address: IpAddress, name: string): void => {
    const found = byAddress.get(address);
    if (found === name) byAddress.delete(address);
    else if (found !== undefined && typeof found !== 'string') {
      const rest = found.filter((other) => other !== name);
      const [only] = rest;
      if (rest.length === 1 && only !== undefined) byAddress.set(address, only);
      else byAddress.set(address, rest);
    }
  };
  const note = (name: string, count: number): void => {
    total += count - (missing.get(name) ?? 0);
    if (count === 0) missing.delete(name);
    else missing.set(name, count);
  };
  const counted = (name: string, service: ClusterService): ClusterService => {
    let unknown = 0;
    for (const address of service.backends.keys()) if (!isKnown(address)) unknown += 1;
    note(name, unknown);
    if (unknown === 0) return service;
    const backends = new Map<IpAddress, PortMap>();
    for (const [address, ports] of service.backends) {
      if (isKnown(address)) backends.set(address, ports);
    }
    return { ...service, backends };
  };

  return {
    set(name, service) {
      const before = services.get(name);
      if (before !== undefined) {
        for (const address of before.backends.keys()) {
          if (!service.backends.has(address)) unlink(address, name);
        }
      }
      for (const address of service.backends.keys()) {
        if (before?.backends.has(address) !== true) link(address, name);
      }
      services.set(name, service);
      changed.delete(name);
      return counted(name, service);
    },
    delete(name) {
      for (const address of services.get(name)?.backends.keys() ?? []) unlink(address, name);
      services.delete(name);
      changed.delete(name);
      note(name, 0);
    },
    touch(address) {
      const found = byAddress.get(address);
      if (found === undefined) return;
      if (typeof found === 'string') changed.add(found);
      else for (const name of found) changed.add(name);
    },
    takeChanged() {
      if (changed.size === 0) return [];
      const names = [...changed];
      changed.clear();
      return names.flatMap((name) => {
        const service = services.get(name);
        return service === undefined ? [] : [{ name, service: counted(name, service) }];
      });
    },
    clear() {
      services.clear();
      byAddress.clear();
      missing.clear();
      changed.clear();
      total = 0;
    },
    get missing() {
      return total;
    },
    examples() {
      const found: string[] = [];
      for (const name of missing.keys()) {
        for (const address of services.get(name)?.backends.keys() ?? []) {
          if (!isKnown(address)) found.push(`${name} ${address}`);
          if (found.length === MOST_EXAMPLES) return found;
        }
      }
      return found;
    },
    missingOf: (name) =>
      [...(services.get(name)?.backends.keys() ?? [])].filter((address) => !isKnown(address)),
  };
}
