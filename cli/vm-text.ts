/** Words and parsers that the commands of `clustermesh vm` share. */
import { InvalidArgumentError } from 'commander';
import { parseDuration, parseHostPort } from '../mesh/runtime/option-parsers.ts';

/** What a command of `clustermesh vm` does with what it learns. */
export interface VmContext {
  /** To standard output. */
  readonly print: (text: string) => void;
  /** For people, to standard error. */
  readonly say: (text: string) => void;
  /** Where `--token-file -` reads. */
  readonly input: AsyncIterable<Buffer | string>;
  /** Something was found that is wrong: exit code 1. */
  readonly setProblem: () => void;
  readonly signal: AbortSignal;
}

/** Labels as `a=b,c=d`; without any `-`. */
export function labelsText(labels: Readonly<Record<string, string>>): string {
  const parts = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  return listText(parts.sort());
}

/** Texts with commas between them; without any `-`. */
export function listText(texts: readonly string[]): string {
  return texts.length === 0 ? '-' : texts.join(',');
}

/** A time span as people say it: `45s`, `12m`, `3h20m`, `5d4h`. */
export function spanText(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 120) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes}m`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours}h${minutes % 60}m` : `${Math.floor(hours / 24)}d${hours % 24}h`;
}

/** Collects `key=value`, several in one text with commas, or the flag given several times. */
export function collectLabels(
  text: string,
  before: Readonly<Record<string, string>>,
): Record<string, string> {
  const labels = { ...before };
  for (const part of text.split(',')) {
    const [key = '', value, ...rest] = part.split('=');
    if (key === '' || value === undefined || rest.length > 0) {
      throw new InvalidArgumentError('expected KEY=VALUE, such as app=db,tier=store');
    }
    labels[key] = value;
  }
  return labels;
}

/** Collects a flag that is given several times, or once with commas. */
export function collectTexts(text: string, before: readonly string[]): string[] {
  return [...before, ...text.split(',')];
}

/** A duration in whole seconds. */
export function toSeconds(text: string): number {
  const seconds = Math.round(asArgument(() => parseDuration(text)) / 1000);
  if (seconds < 1) throw new InvalidArgumentError('expected at least 1s');
  return seconds;
}

/** `host:port`, checked and as it was given. */
export function toPlace(text: string): string {
  asArgument(() => parseHostPort(text));
  return text;
}

function asArgument<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}
