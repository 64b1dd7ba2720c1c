/** The tree of commands as completion needs it, taken from commander. Pure. */
import type { Argument, Command, Option } from 'commander';

/** Names that are asked for when they are needed: an agent or the machine knows them. */
export const NAME_KINDS = ['peers', 'clusters', 'services', 'namespaces', 'labs'] as const;
/** One of NAME_KINDS. */
export type NameKind = (typeof NAME_KINDS)[number];

/** What may stand where a value is expected. */
export type Values =
  | { readonly kind: 'choices'; readonly choices: readonly string[] }
  | { readonly kind: 'names'; readonly names: NameKind }
  /** Anything; shells offer files. */
  | { readonly kind: 'any' };

/** An option of a command. */
export interface OptionNode {
  /** `-o` and `--output`. */
  readonly flags: readonly string[];
  readonly description: string;
  /** undefined: it takes none. */
  readonly values: Values | undefined;
}

/** A command. */
export interface CommandNode {
  /** Words after `clustermesh`; empty for the program itself. */
  readonly path: readonly string[];
  readonly description: string;
  readonly commands: readonly { readonly name: string; readonly description: string }[];
  readonly options: readonly OptionNode[];
  /** Of each argument in turn; the last one may be repeated. */
  readonly arguments: readonly Values[];
}

/** By names of arguments and options: which of them are names that can be asked for. */
const ARGUMENT_NAMES: Readonly<Record<string, NameKind>> = { peer: 'peers', service: 'services' };
const OPTION_NAMES: Readonly<Record<string, NameKind>> = {
  '--lab': 'labs',
  '--cluster': 'clusters',
  '--namespace': 'namespaces',
};

/** Every command of a program, parents before their children. */
export function completionTree(program: Command): CommandNode[] {
  return nodesOf(program, []);
}

function nodesOf(command: Command, path: readonly string[]): CommandNode[] {
  const help = command.createHelp();
  const children = help.visibleCommands(command);
  const node: CommandNode = {
    path,
    description: command.description(),
    commands: children.map((child) => ({ name: child.name(), description: child.description() })),
    options: help.visibleOptions(command).map(optionNode),
    arguments: command.registeredArguments.map((argument) => argumentValues(argument, path)),
  };
  return [
    node,
    ...children
      .filter((child) => child.name() !== 'help')
      .flatMap((child) => nodesOf(child, [...path, child.name()])),
  ];
}

function optionNode(option: Option): OptionNode {
  const { short, long } = option;
  const takesValue = option.required || option.optional;
  return {
    flags: [short, long].filter((flag) => typeof flag === 'string'),
    description: option.description,
    values: takesValue ? valuesOf(option.argChoices, OPTION_NAMES[long ?? '']) : undefined,
  };
}

function argumentValues(argument: Argument, path: readonly string[]): Values {
  // Of a lab and of a peer that is not there yet nothing is known.
  const names = path[0] === 'lab' ? undefined : ARGUMENT_NAMES[argument.name()];
  return valuesOf(argument.argChoices, names);
}

function valuesOf(choices: readonly string[] | undefined, names: NameKind | undefined): Values {
  if (choices !== undefined) return { kind: 'choices', choices };
  return names === undefined ? { kind: 'any' } : { kind: 'names', names };
}
