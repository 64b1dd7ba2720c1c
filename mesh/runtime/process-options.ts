import { parseHostPort, parseLogLevel } from './option-parsers.ts';
import { defineOptions } from './options.ts';

/** Options that every program that keeps running has. */
export const PROCESS_OPTIONS = defineOptions({
  metricsAddress: {
    flag: '--metrics-address HOST:PORT',
    env: 'ISTHMUS_METRICS_ADDRESS',
    parse: parseHostPort,
    help: 'where /metrics, /healthz and /readyz answer over plain HTTP; without it they do not',
  },
  logLevel: {
    flag: '--log-level LEVEL',
    env: 'ISTHMUS_LOG_LEVEL',
    default: 'info',
    parse: parseLogLevel,
    help: 'trace, debug, info, warn, error, fatal or silent; each SIGUSR2 lets a running program tell more by one level, up to trace, and the next one as much as at first',
  },
});
