/** A problem as people and scripts are told of it: the same in `status`, `troubleshoot` and `check`. Pure. */
import { PROBLEMS, type ProblemId } from './problems.ts';

/** `error`: something does not work, or will not after the next failure; `warning`: it works, and somebody should look. */
export type Severity = 'error' | 'warning';

/** What is known of a kind of problem before it happens. */
export interface ProblemKind {
  readonly severity: Severity;
  /** What people see of it, a short sentence without a full stop. */
  readonly symptom: string;
  /** Why it comes to that, in general. */
  readonly cause: string;
  /** The next command to run, exactly; `{peer}`, `{node}` and the like are filled in from the problem at hand. */
  readonly next: string;
  /** What mends it, for the documentation: a sentence or two. */
  readonly mend: string;
}

/** One problem that was found. */
export interface Problem {
  readonly id: ProblemId;
  readonly severity: Severity;
  /** Whom it concerns: `peer beta`, `node worker-1`, `apiserver`. */
  readonly subject: string;
  /** What is wrong, as it was seen: names, addresses, dates. */
  readonly cause: string;
  /** The exact next command. */
  readonly nextCommand: string;
  /** Where to read on: a path in the repository with an anchor. */
  readonly docs: string;
}

/** Where the page with a section for each id is. */
export const PROBLEMS_PAGE = 'docs/troubleshooting.md';

/** Makes a problem of its kind. `values` fill the placeholders of the next command; one without a value stays as `<name>`. */
export function problemOf(
  id: ProblemId,
  about: {
    readonly subject: string;
    /** Default: the cause in general. */
    readonly cause?: string;
    readonly values?: Readonly<Record<string, string | undefined>>;
  },
): Problem {
  const kind: ProblemKind = PROBLEMS[id];
  const values = about.values ?? {};
  return {
    id,
    severity: kind.severity,
    subject: about.subject,
    cause: about.cause ?? kind.cause,
    nextCommand: kind.next.replace(/\{(\w+)\}/g, (_whole, name: string) => {
      const value = values[name];
      return value === undefined ? `<${name}>` : shellWord(value);
    }),
    docs: `${PROBLEMS_PAGE}#${id}`,
  };
}

/** Errors before warnings; within each the order in which they were found. */
export function bySeverity(problems: readonly Problem[]): Problem[] {
  return [
    ...problems.filter(({ severity }) => severity === 'error'),
    ...problems.filter(({ severity }) => severity === 'warning'),
  ];
}

/** The text as one word of a shell: names come from other clusters, and commands are copied. */
function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
