import { createLogger, type Logger } from '../../../mesh/runtime/log.ts';

/** A line of a log. */
export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** A logger whose lines can be looked at. */
export function recordingLogger(): { readonly logger: Logger; readonly lines: readonly LogLine[] } {
  const lines: LogLine[] = [];
  const logger = createLogger('test', {
    level: 'debug',
    destination: {
      write(text: string) {
        const { level, msg, ...fields } = JSON.parse(text);
        lines.push({ level, message: msg, fields });
      },
    },
  });
  return { logger, lines };
}
