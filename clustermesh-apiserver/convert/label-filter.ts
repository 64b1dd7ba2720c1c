/**
 * Which labels of a pod are part of its identity, in the words of Cilium's `--labels` (`pkg/labelsfilter`): a list of
 * expressions that match a key from its beginning, `!` in front to leave labels out, `source:` in front to mean one source.
 */

/** One expression. */
interface LabelPattern {
  /** Undefined means every source. */
  readonly source: string | undefined;
  readonly isIgnored: boolean;
  readonly expression: RegExp;
}

/** Decides about labels of Kubernetes objects by their keys. */
export interface LabelFilter {
  includes(key: string): boolean;
}

/** A list of label expressions that cannot be used. */
export class LabelFilterError extends Error {
  readonly code: 'bad-pattern';
  readonly retryable = false;

  constructor(message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'LabelFilterError';
    this.code = 'bad-pattern';
  }
}

/** What Cilium 1.20 begins with; what a user gives is added to it. */
const DEFAULTS: readonly string[] = [
  'reserved:.*',
  'io\\.kubernetes\\.pod\\.namespace',
  'io\\.cilium\\.k8s\\.namespace\\.labels',
  'app\\.kubernetes\\.io',
  'io\\.cilium\\.k8s\\.policy\\.cluster',
  'io\\.cilium\\.k8s\\.policy\\.serviceaccount',
  '!io\\.kubernetes',
  '!kubernetes\\.io',
  '!statefulset\\.kubernetes\\.io/pod-name',
  '!apps\\.kubernetes\\.io/pod-index',
  '!batch\\.kubernetes\\.io/job-completion-index',
  '!batch\\.kubernetes\\.io/controller-uid',
  '!.*beta\\.kubernetes\\.io',
  '!k8s\\.io',
  '!pod-template-generation',
  '!pod-template-hash',
  '!controller-revision-hash',
  '!controller-uid',
  '!annotation.*',
  '!etcd_node',
  '!topology\\.kubernetes\\.io',
];
/** Source of the labels of Kubernetes objects. */
const SOURCE = 'k8s';
/** Decisions remembered: there are few keys, but nobody promises it. */
const MAX_REMEMBERED = 10_000;
/** What means something else in Go's expressions than in these, or nothing here. */
const FOREIGN_SYNTAX = /\\[AzQEC]|\\p[A-Z]|\(\?P<|\[\[:|\(\?[a-zA-Z-]+[:)]/;

/** The filter that stands when nobody asks for another. */
export const DEFAULT_LABEL_FILTER: LabelFilter = createLabelFilter([]);

/** Parses a list as `--labels` has it, separated by commas or spaces. Throws LabelFilterError naming the expression. */
export function parseLabelFilter(text: string): LabelFilter {
  return createLabelFilter(text.split(/[\s,]+/).filter((word) => word !== ''));
}

/** Makes a filter of expressions that are added to the default ones. Throws LabelFilterError naming the expression. */
export function createLabelFilter(expressions: readonly string[]): LabelFilter {
  const added = expressions.map(parsePattern);
  const patterns = [...DEFAULTS.map(parsePattern), ...added].filter(
    ({ source }) => source === undefined || source === SOURCE,
  );
  // Once somebody says what to take, what nobody names is left out.
  const mustBeNamed = added.some(({ isIgnored }) => !isIgnored);
  const remembered = new Map<string, boolean>();
  return {
    includes(key) {
      const known = remembered.get(key);
      if (known !== undefined) return known;
      const decided = decide(key, patterns, mustBeNamed);
      if (remembered.size >= MAX_REMEMBERED) remembered.clear();
      remembered.set(key, decided);
      return decided;
    },
  };
}

/** The longest expression that takes a label must match more of it than the shortest one that leaves it out. */
function decide(key: string, patterns: readonly LabelPattern[], mustBeNamed: boolean): boolean {
  let taken = 0;
  let ignored = 0;
  for (const { isIgnored, expression } of patterns) {
    const match = expression.exec(key);
    if (match === null || match.index !== 0) continue;
    const length = Buffer.byteLength(match[0]);
    if (!isIgnored) taken = Math.max(taken, length);
    else if (ignored === 0 || length < ignored) ignored = length;
  }
  return (!mustBeNamed && ignored === 0) || taken > ignored;
}

function parsePattern(text: string): LabelPattern {
  const colon = text.indexOf(':');
  const source = colon === -1 ? undefined : text.slice(0, colon) || undefined;
  const rest = colon === -1 ? text : text.slice(colon + 1);
  const isIgnored = rest.startsWith('!');
  const expression = isIgnored ? rest.slice(1) : rest;
  if (expression === '') {
    throw new LabelFilterError(
      `cannot use label expression ${JSON.stringify(text)}: expected [source:][!]expression, for instance "k8s:app" or "!io.example"`,
    );
  }
  if (FOREIGN_SYNTAX.test(expression)) {
    throw new LabelFilterError(
      `cannot use label expression ${JSON.stringify(text)}: it has syntax of Go's regular expressions that is not supported; expected letters, ".", "*", "+", "?", "|", "()" and "[]"`,
    );
  }
  try {
    return { source, isIgnored, expression: new RegExp(expression) };
  } catch (error) {
    throw new LabelFilterError(
      `cannot use label expression ${JSON.stringify(text)}: not a regular expression`,
      { cause: error },
    );
  }
}
