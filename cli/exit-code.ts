/** How a command ends that has failed. */
import { CommanderError } from 'commander';
import { EXIT_CODES } from './cli-error.ts';

/** Exit code for an error of any part of the program. */
export function exitCodeOf(error: unknown): number {
  // Help asked for is fine, help instead of a command is not.
  if (error instanceof CommanderError) {
    return error.exitCode === 0 ? EXIT_CODES.fine : EXIT_CODES.usage;
  }
  switch (codeOf(error)) {
    case 'usage':
    case 'topology':
    case 'bad-question':
      return EXIT_CODES.usage;
    case 'unreachable':
      return EXIT_CODES.unreachable;
    case 'change':
      return EXIT_CODES.change;
    case 'timeout':
      return EXIT_CODES.timeout;
    default:
      return EXIT_CODES.problem;
  }
}

/** What to say of an error, line by line. Commander has printed its text itself. */
export function errorLines(error: unknown): string[] {
  if (error instanceof CommanderError) return [];
  if (!(error instanceof Error)) return [String(error)];
  // Without a code of ours it is a fault of the program: whoever mends it needs to know where.
  const text = codeOf(error) === undefined ? (error.stack ?? error.message) : error.message;
  return text.split('\n');
}

function codeOf(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}
