/** Keeps the resolver listening for as long as the agent runs: its port may be held by somebody else for a while. */
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import type { NameBook } from './name-book.ts';
import type { ZoneDomains } from './names.ts';
import { listenResolver } from './resolver.ts';

/** Answers names, and says when it cannot. */
export interface NameService {
  readonly names: NameBook;
  run(signal: AbortSignal): Promise<void>;
  /** Why names are not answered; empty when they are. */
  problems(): readonly string[];
}

/** Makes a name service; it listens from `run` on. */
export function createNameService(options: {
  readonly address: HostPort;
  readonly domains: ZoneDomains;
  readonly names: NameBook;
  readonly clock: Clock;
  readonly logger: Logger;
}): NameService {
  const { names, clock, logger } = options;
  let problem: string | undefined;
  return {
    names,
    problems: () => (problem === undefined ? [] : [problem]),
    async run(signal) {
      const backoff = createBackoff({ minMs: 500, maxMs: 30_000 });
      while (!signal.aborted) {
        try {
          await using resolver = await listenResolver(options);
          problem = undefined;
          logger.info({ ...resolver.address }, 'names of services are answered');
          await new Promise<void>((resolve) => {
            if (signal.aborted) resolve();
            signal.addEventListener('abort', () => resolve(), { once: true });
          });
        } catch (error) {
          const reason = error instanceof Error ? error.message : String(error);
          if (reason !== problem) logger.warn({ reason }, 'names of services are not answered');
          problem = reason;
          await clock.sleep(backoff.next(), signal).catch(() => undefined);
        }
      }
    },
  };
}
