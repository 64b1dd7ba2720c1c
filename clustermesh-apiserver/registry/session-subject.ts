/** Whom a stream of the registry is for. */
import type { NodeConflict } from '../convert/node.ts';

/** A greeting as it came. */
export interface Greeting {
  readonly agentVersion: string;
  /** Of machines: differs after each boot. */
  readonly instanceId: string;
  /** Of machines: random for each process. */
  readonly runId: string;
  /** Of nodes: whether it may be told its peers. */
  readonly takesConfig: boolean;
}

/** What a message says besides a greeting and policies; undefined: nothing of the kind. */
export interface SubjectNews {
  readonly facts: { readonly sequence: number } | undefined;
  readonly machine: { readonly sequence: number } | undefined;
  readonly health: object | undefined;
}

/** What became of it. */
export type NewsAnswer =
  /** To be answered; `conflict` undefined: it counts. */
  | {
      readonly kind: 'answered';
      readonly sequence: number;
      readonly conflict?: NodeConflict | undefined;
    }
  | { readonly kind: 'taken' }
  /** It is none that such a caller sends; `expected` says what it does. */
  | { readonly kind: 'unexpected'; readonly expected: string };

/** One stream of one caller. */
export interface SubjectSession {
  take(news: SubjectNews, signal: AbortSignal): Promise<NewsAnswer>;
  /** Begins to tell the caller what it has to know, after its greeting was answered. */
  follow(send: (message: object) => void): void;
  /** The stream has ended. */
  close(): void;
}

/** What becomes of a greeting. */
export type SubjectOpening =
  | { readonly kind: 'open'; readonly session: SubjectSession }
  /** It may be let in a little later. */
  | ({ readonly kind: 'wait' } & NodeConflict)
  | ({ readonly kind: 'refused' } & NodeConflict);

/** A node or a machine, by its certificate. */
export interface SessionSubject {
  readonly kind: 'node' | 'machine';
  readonly name: string;
  /** Its name where policies stand: other than every other subject's. */
  readonly policyName: string;
  /** Begins a session. `onReplaced` is called with a reason when it counts no more. */
  open(greeting: Greeting, onReplaced: (reason: string) => void): SubjectOpening;
}
