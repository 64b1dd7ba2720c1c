/** Finds sockets that talk to a backend which the frontend they called has lost. */
import { setImmediate as turn } from 'node:timers/promises';
import type { OpenMap } from './object.ts';
import type { LostBackend, ServicesTable } from './ops/services.ts';
import { readTranslations, type TranslatedSocket } from './ops/translations.ts';

/** A socket whose backend is gone. */
export type OrphanedSocket = Omit<TranslatedSocket, 'frontend'>;

/** Where orphans come from. */
export interface SocketOrphans {
  /**
   * Sockets whose backend was lost since the last call. A connect that chose its backend just before may be recorded just
   * after: the losses of the call before are looked at again. With `all` every socket is looked at, as after a start.
   */
  find(options: { readonly all: boolean }): Promise<OrphanedSocket[]>;
}

/** Looks through the map of translated sockets, but only when something was lost. */
export function createSocketOrphans(
  translations: OpenMap,
  services: Pick<ServicesTable, 'takeLost' | 'socketNames'>,
): SocketOrphans {
  let previous: readonly LostBackend[] = [];
  return {
    async find({ all }) {
      const recent = services.takeLost();
      const lost = new Map<string, Set<string>>();
      for (const { frontend, backend } of [...previous, ...recent]) {
        lost.set(backend, (lost.get(backend) ?? new Set()).add(frontend));
      }
      previous = recent;
      if (!all && lost.size === 0) return [];
      const names = new Map<string, ReadonlySet<string>>();
      const orphans: OrphanedSocket[] = [];
      for (const part of readTranslations(translations)) {
        for (const { cookie, frontend, backend } of part) {
          if (!all && !lost.get(backend)?.has(frontend)) continue;
          const has = names.get(frontend) ?? services.socketNames(frontend);
          names.set(frontend, has);
          if (!has.has(backend)) orphans.push({ cookie, backend });
        }
        await turn();
      }
      return orphans;
    },
  };
}
