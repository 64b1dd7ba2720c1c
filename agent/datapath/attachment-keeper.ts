/**
 * Keeps programs where they belong: what another tool took away is attached again within seconds, and told; and an upgrade
 * that had to wait for rows to be written is brought to its end when they are.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { Datapath } from './desired.ts';

/** A look costs a few system calls for each endpoint. */
const LOOK_EACH_MS = 2000;

/** What the keeper works on. */
export interface AttachmentKeeperOptions {
  readonly datapath: Pick<Datapath, 'heal' | 'upgrade'>;
  /** Host interfaces of this node's endpoints. */
  readonly hostInterfaces: () => readonly string[];
  /** Why the tables do not hold yet what is wanted; empty when they do. */
  readonly missing: () => readonly string[];
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Keeps attachments. */
export interface AttachmentKeeper {
  run(signal: AbortSignal): Promise<void>;
  /** What cannot be done, or is waited for, a sentence each. */
  problems(): readonly string[];
}

/** Makes a keeper that does nothing until it runs. */
export function createAttachmentKeeper(options: AttachmentKeeperOptions): AttachmentKeeper {
  const { datapath, clock, logger } = options;
  /** A failure is told once until something else happens. */
  let told: string | undefined;

  const look = async (): Promise<void> => {
    const pending = datapath.upgrade?.pending() ?? [];
    if (pending.length > 0 && options.missing().length === 0) {
      datapath.upgrade?.finish();
      logger.info({ maps: pending }, 'upgrade is complete: all programs are of this version');
    }
    const done = (await datapath.heal?.(options.hostInterfaces())) ?? [];
    for (const repair of done) {
      logger.warn({ repair }, 'programs were detached by somebody else and are attached again');
    }
    told = undefined;
  };

  return {
    problems() {
      const pending = datapath.upgrade?.pending() ?? [];
      const waiting =
        pending.length === 0
          ? []
          : [
              `programs of the version before go on until ${pending.join(', ')} are written anew, which waits for: ${options.missing()[0] ?? 'nothing more'}`,
            ];
      const failed = told === undefined ? [] : [`programs cannot be attached again: ${told}`];
      return [...waiting, ...failed];
    },
    async run(signal) {
      while (!signal.aborted) {
        try {
          await look();
        } catch (error) {
          const text = error instanceof Error ? error.message : String(error);
          if (text !== told) logger.warn({ err: error }, 'programs cannot be attached again');
          told = text;
        }
        await clock.sleep(LOOK_EACH_MS, signal).catch(() => undefined);
      }
    },
  };
}
