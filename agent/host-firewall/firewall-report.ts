/** How host policy stands, for status and for whoever switches it. */

/** What policies make of the host as an endpoint. */
export interface JudgedHost {
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
  /** Those that select it. */
  readonly policies: readonly string[];
}

/** Host policy, and what is odd about it. */
export interface FirewallReport {
  /** `trial`: full, for as long as `endsInMs` says, and default then unless somebody confirms it. */
  readonly mode: 'default' | 'trial' | 'full';
  readonly endsInMs: number | undefined;
  /** RFC 3339. */
  readonly confirmedAt: string | undefined;
  readonly adminPorts: readonly number[];
  /** Interfaces whose packets are judged. */
  readonly devices: readonly string[];
  /** Undefined: policies are not known yet. */
  readonly host: JudgedHost | undefined;
  readonly problems: readonly string[];
}

/** The report, and what passes whatever policies say. */
export interface FirewallDescription extends FirewallReport {
  readonly fixed: readonly {
    readonly name: string;
    readonly passes: string;
    readonly why: string;
    /** The calls that are open at present, where the rule names any: `egress TCP 192.0.2.7:2379`. */
    readonly calls: readonly string[];
  }[];
}

/** One line of a report. */
export function firewallLine({ mode, endsInMs = 0, confirmedAt }: FirewallReport): string {
  switch (mode) {
    case 'default':
      return 'host policy: default (only what has a mesh identity at its other end is judged)';
    case 'trial':
      return `host policy: full, on trial: taken back in ${Math.ceil(endsInMs / 1000)} s unless confirmed`;
    case 'full':
      return `host policy: full, confirmed ${confirmedAt}`;
    default:
      return mode satisfies never;
  }
}
