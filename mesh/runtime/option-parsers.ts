import { isIPv6 } from 'node:net';
import { LOG_LEVELS, type LogLevel } from './log.ts';

const DURATION_PARTS = /(\d+(?:\.\d+)?)(ms|s|m|h)/gy;
const UNIT_MILLISECONDS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const;

/** An address to listen on or to connect to. */
export interface HostPort {
  /** Name or address, an IPv6 address without brackets. */
  readonly host: string;
  readonly port: number;
}

/** Parses a text that must not be empty. */
export function parseText(text: string): string {
  if (text.trim() === '')
    throw new Error('cannot parse an empty text: expected at least one character');
  return text;
}

/** Parses `true` or `false`. */
export function parseBoolean(text: string): boolean {
  if (text === 'true') return true;
  if (text === 'false') return false;
  throw new Error(`cannot parse ${JSON.stringify(text)}: expected true or false`);
}

/** Makes a parser for whole numbers in an inclusive range. */
export function integerParser(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) {
      throw new Error(
        `cannot parse ${JSON.stringify(text)}: expected a whole number from ${min} to ${max}`,
      );
    }
    return value;
  };
}

/** Makes a parser that takes one of the given words. */
export function choiceParser<const T extends string>(choices: readonly T[]): (text: string) => T {
  return (text) => {
    const found = choices.find((choice) => choice === text);
    if (found === undefined) {
      throw new Error(
        `cannot parse ${JSON.stringify(text)}: expected one of ${choices.join(', ')}`,
      );
    }
    return found;
  };
}

/** Parses a log level. */
export const parseLogLevel: (text: string) => LogLevel = choiceParser(LOG_LEVELS);

/** Parses a duration as Go writes it (`90s`, `1h30m`, `250ms`) into milliseconds. */
export function parseDuration(text: string): number {
  DURATION_PARTS.lastIndex = 0;
  let total = 0;
  let end = 0;
  for (let part = DURATION_PARTS.exec(text); part !== null; part = DURATION_PARTS.exec(text)) {
    total += Number(part[1]) * UNIT_MILLISECONDS[part[2] as keyof typeof UNIT_MILLISECONDS];
    end = DURATION_PARTS.lastIndex;
  }
  if (text === '0') return 0;
  if (end === 0 || end !== text.length) {
    throw new Error(
      `cannot parse duration ${JSON.stringify(text)}: expected such as 500ms, 30s, 15m or 1h30m`,
    );
  }
  return total;
}

/** Parses `host:port`, `[ipv6]:port` or `:port` (every address); port 0 lets the kernel choose. */
export function parseHostPort(text: string): HostPort {
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535 || (match?.[1] !== undefined && !isIPv6(match[1]))) {
    throw new Error(
      `cannot parse address ${JSON.stringify(text)}: expected host:port or [IPv6]:port`,
    );
  }
  return { host: host === '' ? '::' : host, port };
}
