import { type DestinationStream, type Logger, pino } from 'pino';

export type { Logger } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** As many are remembered before those that are gone are forgotten. */
const MOST_CHILDREN = 500;

/** Children of a logger: each has a level of its own, and goes when nobody has it any more. */
const families = new WeakMap<Logger, WeakRef<Logger>[]>();

/** Makes the process's logger: JSON lines on standard error. Keys, tokens and certificates are redacted wherever they appear. */
export function createLogger(
  name: string,
  options: { level?: LogLevel; destination?: DestinationStream } = {},
): Logger {
  const redact = ['key', 'token', 'password', 'cert', 'ca', 'privateKey'];
  const family: WeakRef<Logger>[] = [];
  const logger = pino(
    {
      name,
      level: options.level ?? 'info',
      base: { name },
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: {
        paths: redact.flatMap((field) => [`credentials.${field}`, `*.credentials.${field}`]),
      },
      formatters: { level: (label) => ({ level: label }) },
      onChild: (child: Logger) => {
        if (family.length >= MOST_CHILDREN) {
          family.splice(0, family.length, ...family.filter((one) => one.deref() !== undefined));
        }
        family.push(new WeakRef(child));
      },
    },
    options.destination ?? pino.destination({ dest: 2, sync: true }),
  );
  families.set(logger, family);
  return logger;
}

/** Changes the level of a logger that createLogger() made, and of its children. */
export function changeLogLevel(logger: Logger, level: LogLevel): void {
  logger.level = level;
  const family = families.get(logger) ?? [];
  for (const child of family) {
    const alive = child.deref();
    if (alive !== undefined) alive.level = level;
  }
}

/**
 * Each call of the result lets a running program tell more: one level more, up to trace, and then what it told at first. The change
 * itself is logged, whatever the level.
 */
export function logLevelSteps(logger: Logger, first: LogLevel): () => void {
  const more = LOG_LEVELS.slice(0, LOG_LEVELS.indexOf(first)).reverse();
  let steps = 0;
  return () => {
    steps = (steps + 1) % (more.length + 1);
    const level = more[steps - 1] ?? first;
    const loudest = LOG_LEVELS.indexOf(level) < LOG_LEVELS.indexOf('info') ? level : 'info';
    changeLogLevel(logger, loudest);
    logger.info({ logLevel: level }, 'log level changed');
    changeLogLevel(logger, level);
  };
}
