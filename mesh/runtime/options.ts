import { Command, CommanderError, Option } from 'commander';

/** One option of a program: a flag, and the environment variable that stands in for it. */
export interface OptionSpec<T = unknown> {
  /** Long flag with the name of its value: `--cluster-name NAME`. The name may be left out. */
  readonly flag: string;
  /** Environment variable used when the flag is absent; an empty one counts as unset. Default: none. */
  readonly env?: string;
  /** Turns text into the value; throws an Error whose message says what was expected. */
  readonly parse: (text: string) => T;
  /** What stands when neither flag nor variable is given, as a user would type it. Default: the value is undefined. */
  readonly default?: string;
  readonly help: string;
  /** Refuses to start without it. */
  readonly required?: true;
  /** May be given several times, the variable holding a comma-separated list: the value is an array. */
  readonly repeatable?: true;
  /** Needs no value on the command line: its presence is parsed as `true`; `--flag=false` says the contrary. */
  readonly switch?: true;
}

/** A program's options by the name that the program uses for them. */
export type OptionTable = Readonly<Record<string, OptionSpec>>;

type OptionValue<S extends OptionSpec> = S extends { readonly repeatable: true }
  ? readonly ReturnType<S['parse']>[]
  : S extends { readonly required: true } | { readonly default: string }
    ? ReturnType<S['parse']>
    : ReturnType<S['parse']> | undefined;

/** Parsed options of a table: undefined only where an option has no default and is not required. */
export type OptionValues<T extends OptionTable> = { readonly [K in keyof T]: OptionValue<T[K]> };

/** Why a program should not start: `usage` is a mistake (exit code 2), `help` was asked for (exit code 0, message is the text). */
export class OptionsError extends Error {
  readonly code: 'usage' | 'help';
  readonly exitCode: 0 | 2;
  readonly retryable = false;

  constructor(code: 'usage' | 'help', message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'OptionsError';
    this.code = code;
    this.exitCode = code === 'help' ? 0 : 2;
  }
}

/** Declares a table of options, keeping the type of each value. */
export function defineOptions<const T extends OptionTable>(table: T): T {
  return table;
}

/**
 * Parses arguments (without the program's own two) and environment against a table: a flag wins over a variable, a
 * variable over the default. Throws OptionsError naming every flag that is wrong, or with the help text for `--help`.
 */
export function parseOptions<T extends OptionTable>(
  table: T,
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  program: { name: string; description?: string } = { name: '' },
): OptionValues<T> {
  const command = buildCommand(table, program);
  const given = runCommander(command, argv);
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [name, spec] of Object.entries(table)) {
    try {
      values[name] = optionValue(spec, given[attributeName(spec)], env);
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
  }
  if (problems.length > 0) throw new OptionsError('usage', problems.join('; '));
  return values as OptionValues<T>;
}

function buildCommand(
  table: OptionTable,
  program: { name: string; description?: string },
): Command {
  const silent = { writeOut: () => undefined, writeErr: () => undefined };
  const command = new Command(program.name)
    .description(program.description ?? '')
    .exitOverride()
    .configureOutput(silent)
    .allowExcessArguments(false);
  for (const spec of Object.values(table)) command.addOption(commanderOption(spec));
  return command;
}

function commanderOption(spec: OptionSpec): Option {
  const notes = [
    spec.required ? 'required' : undefined,
    spec.default === undefined ? undefined : `default: ${spec.default}`,
    spec.env === undefined ? undefined : `env: ${spec.env}`,
    spec.repeatable ? 'may be repeated' : undefined,
  ].filter((note) => note !== undefined);
  const help = notes.length === 0 ? spec.help : `${spec.help} (${notes.join(', ')})`;
  if (spec.switch) return new Option(`${flagName(spec)} [true|false]`, help);
  const option = new Option(`${flagName(spec)} <${spec.flag.split(' ')[1] ?? 'VALUE'}>`, help);
  if (spec.repeatable) {
    option.argParser((text: string, before: string[] | undefined) => [...(before ?? []), text]);
  }
  return option;
}

function runCommander(command: Command, argv: readonly string[]): Record<string, unknown> {
  try {
    command.parse([...argv], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.code === 'commander.helpDisplayed') {
      throw new OptionsError('help', command.helpInformation());
    }
    const hint = command.name() === '' ? '' : `, see ${command.name()} --help`;
    throw new OptionsError('usage', `${error.message.replace(/^error: /, '')}${hint}`, {
      cause: error,
    });
  }
  return command.opts();
}

function optionValue(
  spec: OptionSpec,
  given: unknown,
  env: Readonly<Record<string, string | undefined>>,
): unknown {
  const variable = spec.env === undefined ? undefined : env[spec.env] || undefined;
  const fromEnv = given === undefined && variable !== undefined;
  const source = fromEnv ? `${spec.env} (environment)` : flagName(spec);
  const text = given ?? variable ?? spec.default;
  if (text === undefined) {
    if (spec.required) {
      const instead = spec.env === undefined ? '' : `, or set ${spec.env}`;
      throw new Error(`${flagName(spec)} is required: give it${instead}`);
    }
    return spec.repeatable ? [] : undefined;
  }
  const parse = (part: string): unknown => {
    try {
      return spec.parse(part);
    } catch (error) {
      throw new Error(`${source}: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  if (!spec.repeatable) return parse(text === true ? 'true' : String(text));
  const parts = Array.isArray(text) ? text.map(String) : String(text).split(',');
  return parts
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map(parse);
}

function flagName(spec: OptionSpec): string {
  return spec.flag.split(' ')[0] ?? spec.flag;
}

function attributeName(spec: OptionSpec): string {
  return new Option(flagName(spec)).attributeName();
}
