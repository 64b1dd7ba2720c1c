/** Completion scripts for shells, made of the tree of commands. Pure. */
import type { CommandNode, Values } from './completion-tree.ts';

/** Shells that there are scripts for. */
export const SHELLS = ['bash', 'zsh', 'fish'] as const;
/** One of SHELLS. */
export type Shell = (typeof SHELLS)[number];

/** The script for a shell. */
export function completionScript(shell: Shell, nodes: readonly CommandNode[]): string {
  switch (shell) {
    case 'bash':
      return [...heading(shell, '~/.bashrc'), ...tables(nodes), BASH].join('\n');
    case 'zsh':
      return ['#compdef clustermesh', ...heading(shell, '~/.zshrc'), ...tables(nodes), ZSH].join(
        '\n',
      );
    case 'fish':
      return [...heading(shell, '~/.config/fish/config.fish'), FISH, ...fishLines(nodes), ''].join(
        '\n',
      );
    default:
      return shell satisfies never;
  }
}

function heading(shell: Shell, file: string): string[] {
  const how =
    shell === 'fish'
      ? 'clustermesh completion fish | source'
      : `source <(clustermesh completion ${shell})`;
  return [`# Completion of clustermesh for ${shell}. In ${file}: ${how}`, ''];
}

/** Text of `case` tables that bash and zsh read alike. A command is named by its words, with a blank before each. */
function tables(nodes: readonly CommandNode[]): string[] {
  return [
    ...table(
      'commands',
      '"$1"',
      (node) => [
        [quote(at(node)), node.commands.map(({ name, description }) => [name, description])],
      ],
      nodes,
    ),
    ...table(
      'flags',
      '"$1"',
      (node) => [
        [
          quote(at(node)),
          node.options.flatMap(({ flags, description }) =>
            flags.filter((flag) => flag.startsWith('--')).map((flag) => [flag, description]),
          ),
        ],
      ],
      nodes,
    ),
    ...table(
      'value',
      '"$1 $2"',
      (node) =>
        node.options.flatMap(({ flags, values }) =>
          values === undefined
            ? []
            : [
                [
                  flags.map((flag) => quote(`${at(node)} ${flag}`)).join('|'),
                  valueLines(values),
                ] as const,
              ],
        ),
      nodes,
    ),
    ...table(
      'argument',
      '"$1 $2"',
      (node) =>
        node.arguments.map(
          (values, index) => [quote(`${at(node)} ${index}`), valueLines(values)] as const,
        ),
      nodes,
    ),
  ];
}

function table(
  name: string,
  subject: string,
  rowsOf: (node: CommandNode) => readonly (readonly [string, readonly (readonly string[])[]])[],
  nodes: readonly CommandNode[],
): string[] {
  const rows = nodes.flatMap(rowsOf).filter(([, lines]) => lines.length > 0);
  return [
    `_clustermesh_${name}() {`,
    `  case ${subject} in`,
    ...rows.map(
      ([pattern, lines]) =>
        `    ${pattern}) printf '%s\\t%s\\n' ${lines
          .map(
            ([word = '', description = '']) => `${quote(word)} ${quote(firstClause(description))}`,
          )
          .join(' ')} ;;`,
    ),
    '  esac',
    '}',
    '',
  ];
}

/** `@peers`: to be asked; `@`: anything. */
function valueLines(values: Values): readonly (readonly [string, string])[] {
  switch (values.kind) {
    case 'choices':
      return values.choices.map((choice) => [choice, '']);
    case 'names':
      return [[`@${values.names}`, '']];
    case 'any':
      return [['@', '']];
    default:
      return values satisfies never;
  }
}

const BASH = `# What the words before the cursor are: sets where (the command), option (whose value comes) and count (arguments).
_clustermesh_walk() {
  local i word
  where='' option='' count=0 socket=''
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="\${COMP_WORDS[i]}"
    if [[ $word == '=' ]]; then
      continue
    elif [[ -n $option ]]; then
      [[ $option == --socket-path ]] && socket="$word"
      option=''
    elif [[ $word == -* ]]; then
      [[ -n $(_clustermesh_value "$where" "$word") ]] && option="$word"
    elif [[ $'\\n'"$(_clustermesh_commands "$where")" == *$'\\n'"$word"$'\\t'* ]]; then
      where="$where $word" count=0
    else
      count=$((count + 1))
    fi
  done
}

_clustermesh() {
  local where option count socket word rest current found=''
  current="\${COMP_WORDS[COMP_CWORD]}"
  _clustermesh_walk
  [[ $current == '=' ]] && current=''
  if [[ -n $option ]]; then
    found="$(_clustermesh_value "$where" "$option")"
  elif [[ $current == -* ]]; then
    found="$(_clustermesh_flags "$where")"
  else
    found="$(_clustermesh_commands "$where")"
    [[ -n $found ]] || found="$(_clustermesh_argument "$where" "$count")"
  fi
  COMPREPLY=()
  case "$found" in
    @$'\\t'* | '') return ;;
    @*)
      found="\${found%%$'\\t'*}"
      found="$(clustermesh completion names "\${found#@}" \${socket:+--socket-path "$socket"} 2>/dev/null)"
      ;;
  esac
  while IFS=$'\\t' read -r word rest; do
    [[ -n $word && $word == "$current"* ]] && COMPREPLY+=("$word")
  done <<<"$found"
}

complete -o default -F _clustermesh clustermesh
`;

const ZSH = `_clustermesh() {
  local where='' option='' count=0 socket='' word found i
  for ((i = 2; i < CURRENT; i++)); do
    word="\${words[i]}"
    if [[ -n $option ]]; then
      [[ $option == --socket-path ]] && socket="$word"
      option=''
    elif [[ $word == -* ]]; then
      [[ $word != *=* && -n $(_clustermesh_value "$where" "$word") ]] && option="$word"
    elif [[ -n \${(M)\${(f)"$(_clustermesh_commands "$where")"}:#$word	*} ]]; then
      where="$where $word" count=0
    else
      count=$((count + 1))
    fi
  done
  if [[ -n $option ]]; then
    found="$(_clustermesh_value "$where" "$option")"
  elif [[ $PREFIX == -* ]]; then
    found="$(_clustermesh_flags "$where")"
  else
    found="$(_clustermesh_commands "$where")"
    [[ -n $found ]] || found="$(_clustermesh_argument "$where" "$count")"
  fi
  case "$found" in
    @	* | '') _files; return ;;
    @*)
      found="\${found%%	*}"
      found="$(clustermesh completion names "\${found#@}" \${socket:+--socket-path} \${socket:+"$socket"} 2>/dev/null)"
      ;;
  esac
  local -a offered
  for word in \${(f)found}; do
    offered+=("\${\${word%%	*}//:/\\\\:}:\${word#*	}")
  done
  _describe clustermesh offered
}

if [[ "\${funcstack[1]}" == _clustermesh ]]; then
  _clustermesh "$@"
else
  compdef _clustermesh clustermesh
fi
`;

const FISH = `function __clustermesh_words
    set -l words (commandline -opc)
    string match -v -- '-*' $words[2..-1] | string join ' '
end

function __clustermesh_at
    test (__clustermesh_words) = "$argv"
end

function __clustermesh_in
    string match -q -- "$argv*" (__clustermesh_words)
end

complete -c clustermesh -f`;

function fishLines(nodes: readonly CommandNode[]): string[] {
  return nodes.flatMap((node) => {
    const path = node.path.join(' ');
    const isAt = quote(`__clustermesh_at ${path}`.trim());
    const isIn = quote(`__clustermesh_in ${path}`.trim());
    return [
      ...node.commands.map(
        ({ name, description }) =>
          `complete -c clustermesh -n ${isAt} -a ${name} -d ${quote(firstClause(description))}`,
      ),
      ...(node.path.length === 0 ? [] : node.options).map(({ flags, description, values }) => {
        const names = flags.map((flag) =>
          flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`,
        );
        const taken = values === undefined ? '' : ` ${fishValues(values)}`;
        return `complete -c clustermesh -n ${isIn} ${names.join(' ')}${taken} -d ${quote(firstClause(description))}`;
      }),
      ...node.arguments
        .slice(0, 1)
        .map((values) =>
          values.kind === 'any'
            ? `complete -c clustermesh -n ${isAt} -F`
            : `complete -c clustermesh -n ${isAt} ${fishValues(values).replace('-x ', '')}`,
        ),
    ];
  });
}

function fishValues(values: Values): string {
  switch (values.kind) {
    case 'choices':
      return `-x -a ${quote(values.choices.join(' '))}`;
    case 'names':
      return `-x -a '(clustermesh completion names ${values.names} 2>/dev/null)'`;
    case 'any':
      return '-r';
    default:
      return values satisfies never;
  }
}

function at({ path }: CommandNode): string {
  return path.map((word) => ` ${word}`).join('');
}

/** What help says at length is a hint here. */
function firstClause(description: string): string {
  return description.split(/[:;.(]/, 1)[0]?.trim() ?? '';
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
